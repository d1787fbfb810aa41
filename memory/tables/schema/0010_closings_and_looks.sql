-- A study whose choice is made: nothing more is trained in it, and its sealed test is read, or read again after a crash.
CREATE TABLE study_closings (
    study_id VARCHAR PRIMARY KEY,
    closed_at TIMESTAMP NOT NULL,
    chosen VARCHAR[] NOT NULL,
    "default" VARCHAR[] NOT NULL
);

-- Looks at a sealed test, stored before the evaluation starts: a look that was cut off counts.
CREATE TABLE looks (
    study_id VARCHAR PRIMARY KEY,
    looked_at TIMESTAMP NOT NULL,
    dataset_hash VARCHAR NOT NULL,
    ordinal INTEGER NOT NULL
);
INSERT INTO looks SELECT study_id, created_at, dataset_hash, ordinal FROM reveals;

CREATE OR REPLACE VIEW study_states AS
SELECT s.* EXCLUDE (early_stop, guardrails, withhold), coalesce(s.early_stop, 'off') AS early_stop,
    coalesce(s.guardrails, '{}') AS guardrails, coalesce(s.withhold, 0) AS withhold, e.study_id IS NOT NULL AS finished,
    c.study_id IS NOT NULL AND e.study_id IS NULL AS closing
FROM studies s
LEFT JOIN study_ends e ON e.study_id = s.study_id
LEFT JOIN study_closings c ON c.study_id = s.study_id;
