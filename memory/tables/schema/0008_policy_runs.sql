-- Policies that play a study inside the owner. A run without an end goes on with the next owner.
CREATE TABLE policy_runs (
    run_id VARCHAR PRIMARY KEY,
    position BIGINT NOT NULL DEFAULT nextval('positions'),
    study_id VARCHAR NOT NULL,
    started_at TIMESTAMP NOT NULL,
    policy VARCHAR NOT NULL,
    until_trials INTEGER NOT NULL,
    budget_seconds DOUBLE,
    finishes BOOLEAN NOT NULL
);

CREATE TABLE policy_run_ends (
    run_id VARCHAR PRIMARY KEY,
    ended_at TIMESTAMP NOT NULL,
    outcome VARCHAR NOT NULL,
    message VARCHAR NOT NULL
);
