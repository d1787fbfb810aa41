-- Trials of equal fingerprint train to the same weights, so one of them may take those of another (`weights_of`).
ALTER TABLE trials ADD COLUMN fingerprint VARCHAR;

ALTER TABLE trial_results ADD COLUMN weights_of VARCHAR;

ALTER TABLE trial_results ADD COLUMN predicted_memory_mb DOUBLE;

CREATE OR REPLACE VIEW trial_states AS
SELECT t.*,
    CASE WHEN r.trial_id IS NOT NULL THEN r.status
         WHEN a.trial_id IS NULL THEN 'queued'
         WHEN NOT a.ended THEN 'running'
         ELSE 'interrupted' END AS status,
    coalesce(r.message, '') AS message,
    coalesce(r.validation, MAP {}) AS validation,
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
