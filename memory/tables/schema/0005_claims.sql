-- What a heuristic claims, so that numbers can check it. `change_key` and `turn` say which way it moves what: two claims
-- with equal keys and opposite turns contradict each other where their scopes meet. `alpha` is what the claim may spend
-- on being wrong, fixed when it was written.
CREATE TABLE claims (
    heuristic_id VARCHAR PRIMARY KEY,
    position BIGINT NOT NULL DEFAULT nextval('positions'),
    field VARCHAR NOT NULL,
    backbone VARCHAR,
    metric VARCHAR NOT NULL,
    change_key VARCHAR NOT NULL,
    turn INTEGER NOT NULL,
    claim VARCHAR NOT NULL,
    alpha DOUBLE NOT NULL,
    forced BOOLEAN NOT NULL
);

-- The newest row of a claim, dataset content and backbone is what its matched pairs there say.
CREATE TABLE claim_evidence (
    heuristic_id VARCHAR NOT NULL,
    position BIGINT NOT NULL DEFAULT nextval('positions'),
    dataset_hash VARCHAR NOT NULL,
    backbone VARCHAR NOT NULL,
    n_pairs INTEGER NOT NULL,
    effect DOUBLE NOT NULL,
    variance DOUBLE NOT NULL,
    df DOUBLE NOT NULL
);

CREATE TABLE claim_verdicts (
    heuristic_id VARCHAR NOT NULL,
    position BIGINT NOT NULL DEFAULT nextval('positions'),
    told_at TIMESTAMP NOT NULL,
    verdict VARCHAR NOT NULL,
    transfer VARCHAR NOT NULL,
    n_pairs INTEGER NOT NULL,
    n_datasets INTEGER NOT NULL,
    effect DOUBLE,
    low DOUBLE,
    high DOUBLE
);

CREATE VIEW last_evidence AS
SELECT * EXCLUDE (newest) FROM (
    SELECT *, position = max(position) OVER (PARTITION BY heuristic_id, dataset_hash, backbone) AS newest
    FROM claim_evidence)
WHERE newest;

CREATE VIEW claim_states AS
SELECT c.*, coalesce(v.transfer, 'insufficient') AS transfer, coalesce(v.verdict, 'insufficient') AS verdict,
    coalesce(v.n_pairs, 0) AS n_pairs, coalesce(v.n_datasets, 0) AS n_datasets, v.effect, v.low, v.high
FROM claims c
LEFT JOIN (
    SELECT * EXCLUDE (newest) FROM (
        SELECT *, position = max(position) OVER (PARTITION BY heuristic_id) AS newest FROM claim_verdicts)
    WHERE newest) v ON v.heuristic_id = c.heuristic_id;

CREATE OR REPLACE VIEW note_states AS
SELECT n.*, s.dataset, s.backbone, newer.superseded_by, c.claim, c.forced, c.transfer, c.n_pairs, c.n_datasets, c.effect,
    c.low, c.high,
    CASE WHEN n.kind = 'heuristic' THEN coalesce(c.verdict, 'insufficient') END AS verdict
FROM notes n
JOIN studies s ON s.study_id = n.study_id
LEFT JOIN claim_states c ON c.heuristic_id = n.heuristic_id
LEFT JOIN (
    SELECT older, arg_min(heuristic_id, position) AS superseded_by
    FROM (SELECT unnest(supersedes) AS older, heuristic_id, position FROM notes)
    GROUP BY older
) newer ON newer.older = n.heuristic_id;
