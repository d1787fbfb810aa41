-- Effects become logs, so that a pair beside a score near zero cannot outweigh all others.
UPDATE claim_evidence SET variance = variance / greatest(1 + effect, 0.05)^2, effect = ln(greatest(1 + effect, 0.001));

-- The smallest relative gain that matters in a study, and how many fresh seeds its end trains; NULL is the default.
ALTER TABLE studies ADD COLUMN min_gain DOUBLE;
ALTER TABLE studies ADD COLUMN confirm_seeds INTEGER;

CREATE OR REPLACE VIEW study_states AS
SELECT s.* EXCLUDE (early_stop, guardrails, withhold), coalesce(s.early_stop, 'off') AS early_stop,
    coalesce(s.guardrails, '{}') AS guardrails, coalesce(s.withhold, 0) AS withhold, e.study_id IS NOT NULL AS finished,
    c.study_id IS NOT NULL AND e.study_id IS NULL AS closing
FROM studies s
LEFT JOIN study_ends e ON e.study_id = s.study_id
LEFT JOIN study_closings c ON c.study_id = s.study_id;
