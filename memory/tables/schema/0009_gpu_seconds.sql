-- How long a study's trainings may hold a slot, all together; NULL is no limit.
ALTER TABLE studies ADD COLUMN gpu_seconds DOUBLE;

CREATE OR REPLACE VIEW study_states AS
SELECT s.* EXCLUDE (early_stop, guardrails, withhold), coalesce(s.early_stop, 'off') AS early_stop,
    coalesce(s.guardrails, '{}') AS guardrails, coalesce(s.withhold, 0) AS withhold, e.study_id IS NOT NULL AS finished
FROM studies s LEFT JOIN study_ends e ON e.study_id = s.study_id;
