-- Whether the early-stopping rule of the study applies to a trial; NULL, as in older trials: it does.
ALTER TABLE trials ADD COLUMN early_stop VARCHAR;

CREATE OR REPLACE VIEW trial_states AS
SELECT t.* EXCLUDE (early_stop), coalesce(t.early_stop, 'auto') AS early_stop,
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
