-- Append-only facts, and views that derive states from them. Nothing is updated or deleted, so a killed writer leaves
-- whole facts or none. No foreign keys, no JSON columns and no checks over JSON: DuckDB cannot replay changes to such
-- tables after a crash. Times are UTC. `position` orders facts of equal time.
CREATE SEQUENCE positions;

CREATE TABLE studies (
    study_id VARCHAR PRIMARY KEY,
    position BIGINT NOT NULL DEFAULT nextval('positions'),
    created_at TIMESTAMP NOT NULL,
    dataset VARCHAR NOT NULL,
    dataset_hash VARCHAR NOT NULL,
    split VARCHAR NOT NULL,
    facts VARCHAR NOT NULL,
    backbone VARCHAR NOT NULL,
    metric VARCHAR NOT NULL,
    preset VARCHAR NOT NULL,
    space VARCHAR NOT NULL,
    filter_seen VARCHAR NOT NULL,
    max_trials INTEGER,
    budget_seconds DOUBLE,
    trial_seconds DOUBLE,
    policy VARCHAR NOT NULL,
    seed BIGINT NOT NULL,
    brief VARCHAR NOT NULL
);

CREATE TABLE study_ends (
    study_id VARCHAR PRIMARY KEY,
    ended_at TIMESTAMP NOT NULL
);

CREATE TABLE trials (
    trial_id VARCHAR PRIMARY KEY,
    position BIGINT NOT NULL DEFAULT nextval('positions'),
    study_id VARCHAR NOT NULL,
    number INTEGER NOT NULL,
    created_at TIMESTAMP NOT NULL,
    parent VARCHAR,
    changes VARCHAR NOT NULL,
    config VARCHAR NOT NULL,
    config_hash VARCHAR NOT NULL,
    seed BIGINT NOT NULL,
    replicate_of VARCHAR,
    hypothesis VARCHAR,
    expected VARCHAR,
    cites VARCHAR[] NOT NULL,
    snapshot_id VARCHAR,
    request_key VARCHAR
);

-- One row for every field that has an effect in the trial's configuration. Two trials whose rows of a field share
-- `rest_hash` differ in that field only. Booleans are the numbers 0 and 1; text stands where the value is a word.
CREATE TABLE trial_values (
    trial_id VARCHAR NOT NULL,
    field VARCHAR NOT NULL,
    number DOUBLE,
    text VARCHAR,
    rest_hash VARCHAR NOT NULL
);

CREATE TABLE attempts (
    attempt_id VARCHAR PRIMARY KEY,
    position BIGINT NOT NULL DEFAULT nextval('positions'),
    trial_id VARCHAR NOT NULL,
    pid BIGINT NOT NULL,
    create_time DOUBLE NOT NULL,
    started_at TIMESTAMP NOT NULL
);

CREATE TABLE attempt_ends (
    attempt_id VARCHAR PRIMARY KEY,
    ended_at TIMESTAMP NOT NULL,
    cause VARCHAR NOT NULL
);

CREATE TABLE epochs (
    trial_id VARCHAR NOT NULL,
    attempt_id VARCHAR NOT NULL,
    epoch INTEGER NOT NULL,
    loss DOUBLE NOT NULL,
    validation MAP(VARCHAR, DOUBLE) NOT NULL,
    seconds DOUBLE NOT NULL,
    eval_seconds DOUBLE NOT NULL,
    PRIMARY KEY (trial_id, attempt_id, epoch)
);

CREATE TABLE trial_results (
    trial_id VARCHAR PRIMARY KEY,
    ended_at TIMESTAMP NOT NULL,
    status VARCHAR NOT NULL,
    message VARCHAR NOT NULL,
    validation MAP(VARCHAR, DOUBLE) NOT NULL,
    best_epoch INTEGER,
    epochs INTEGER NOT NULL,
    seconds DOUBLE NOT NULL,
    eval_seconds DOUBLE NOT NULL,
    peak_memory_mb DOUBLE,
    parameters BIGINT,
    device VARCHAR,
    threads INTEGER,
    trainer_version VARCHAR NOT NULL,
    versions MAP(VARCHAR, VARCHAR) NOT NULL
);

CREATE TABLE trial_verdicts (
    trial_id VARCHAR NOT NULL,
    position BIGINT NOT NULL DEFAULT nextval('positions'),
    told_at TIMESTAMP NOT NULL,
    verdict VARCHAR NOT NULL
);

CREATE TABLE notes (
    heuristic_id VARCHAR PRIMARY KEY,
    position BIGINT NOT NULL DEFAULT nextval('positions'),
    study_id VARCHAR NOT NULL,
    created_at TIMESTAMP NOT NULL,
    kind VARCHAR NOT NULL,
    text VARCHAR NOT NULL,
    evidence VARCHAR[] NOT NULL,
    supersedes VARCHAR[] NOT NULL
);

CREATE TABLE snapshots (
    snapshot_id VARCHAR PRIMARY KEY,
    position BIGINT NOT NULL DEFAULT nextval('positions'),
    study_id VARCHAR,
    taken_at TIMESTAMP NOT NULL,
    shown VARCHAR[] NOT NULL
);

-- The only place of test metrics. No view and no memory read joins it.
CREATE TABLE reveals (
    study_id VARCHAR PRIMARY KEY,
    position BIGINT NOT NULL DEFAULT nextval('positions'),
    created_at TIMESTAMP NOT NULL,
    dataset_hash VARCHAR NOT NULL,
    ordinal INTEGER NOT NULL,
    chosen VARCHAR[] NOT NULL,
    "default" VARCHAR[] NOT NULL,
    test VARCHAR NOT NULL
);

CREATE VIEW study_states AS
SELECT s.*, e.study_id IS NOT NULL AS finished
FROM studies s LEFT JOIN study_ends e ON e.study_id = s.study_id;

CREATE VIEW last_attempts AS
SELECT a.trial_id, a.attempt_id, e.attempt_id IS NOT NULL AS ended
FROM (SELECT trial_id, arg_max(attempt_id, position) AS attempt_id FROM attempts GROUP BY trial_id) a
LEFT JOIN attempt_ends e ON e.attempt_id = a.attempt_id;

CREATE VIEW last_verdicts AS
SELECT trial_id, arg_max(verdict, position) AS verdict FROM trial_verdicts GROUP BY trial_id;

CREATE VIEW trial_states AS
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
    v.verdict
FROM trials t
LEFT JOIN trial_results r ON r.trial_id = t.trial_id
LEFT JOIN last_attempts a ON a.trial_id = t.trial_id
LEFT JOIN last_verdicts v ON v.trial_id = t.trial_id;

CREATE VIEW note_states AS
SELECT n.*, s.dataset, s.backbone, newer.superseded_by,
    CASE WHEN n.kind = 'heuristic' THEN 'insufficient' END AS verdict
FROM notes n
JOIN studies s ON s.study_id = n.study_id
LEFT JOIN (
    SELECT older, arg_min(heuristic_id, position) AS superseded_by
    FROM (SELECT unnest(supersedes) AS older, heuristic_id, position FROM notes)
    GROUP BY older
) newer ON newer.older = n.heuristic_id;
