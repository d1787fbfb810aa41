-- What a trial's recommendations are like beside how good they are: coverage, popularity, milliseconds.
ALTER TABLE trial_results ADD COLUMN measures MAP(VARCHAR, DOUBLE);

-- Limits on what is measured that a study's choice must keep, as JSON text.
ALTER TABLE studies ADD COLUMN guardrails VARCHAR;

CREATE OR REPLACE VIEW study_states AS
SELECT s.* EXCLUDE (early_stop, guardrails), coalesce(s.early_stop, 'off') AS early_stop,
    coalesce(s.guardrails, '{}') AS guardrails, e.study_id IS NOT NULL AS finished
FROM studies s LEFT JOIN study_ends e ON e.study_id = s.study_id;

CREATE OR REPLACE VIEW trial_states AS
SELECT t.*,
    CASE WHEN r.trial_id IS NOT NULL THEN r.status
         WHEN a.trial_id IS NULL THEN 'queued'
         WHEN NOT a.ended THEN 'running'
         ELSE 'interrupted' END AS status,
    coalesce(r.message, '') AS message,
    coalesce(r.validation, MAP {}) AS validation,
    coalesce(r.measures, MAP {}) AS measures,
    r.best_epoch,
    coalesce(r.epochs, 0) AS epochs,
    coalesce(r.seconds, 0) AS seconds,
    coalesce(r.eval_seconds, 0) AS eval_seconds,
    r.peak_memory_mb, r.parameters, r.device, r.threads, r.trainer_version,
    coalesce(r.versions, MAP {}) AS versions,
    r.weights_of, r.predicted_memory_mb,
    v.verdict
FROM trials t
LEFT JOIN trial_results r ON r.trial_id = t.trial_id
LEFT JOIN last_attempts a ON a.trial_id = t.trial_id
LEFT JOIN last_verdicts v ON v.trial_id = t.trial_id;
