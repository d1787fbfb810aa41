-- Whether a study stops hopeless trainings early; studies from before there was a choice do not.
ALTER TABLE studies ADD COLUMN early_stop VARCHAR;

CREATE OR REPLACE VIEW study_states AS
SELECT s.* EXCLUDE (early_stop), coalesce(s.early_stop, 'off') AS early_stop, e.study_id IS NOT NULL AS finished
FROM studies s LEFT JOIN study_ends e ON e.study_id = s.study_id;
