-- How often a study is not told of a heuristic, by chance, so that what heuristics are worth can be measured; and what
-- each study was told of, and not told of, where chance decided.
ALTER TABLE studies ADD COLUMN withhold DOUBLE;

CREATE TABLE exposures (
    study_id VARCHAR NOT NULL,
    heuristic_id VARCHAR NOT NULL,
    told_at TIMESTAMP NOT NULL,
    withheld BOOLEAN NOT NULL,
    PRIMARY KEY (study_id, heuristic_id)
);

CREATE OR REPLACE VIEW study_states AS
SELECT s.* EXCLUDE (early_stop, guardrails, withhold), coalesce(s.early_stop, 'off') AS early_stop,
    coalesce(s.guardrails, '{}') AS guardrails, coalesce(s.withhold, 0) AS withhold, e.study_id IS NOT NULL AS finished
FROM studies s LEFT JOIN study_ends e ON e.study_id = s.study_id;
