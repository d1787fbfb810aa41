-- What came from elsewhere. Its heuristics are notes whose study is the pack; its trainings stay apart from our own, so
-- that they neither verify a claim nor tell of noise.
CREATE TABLE packs (
    pack_id VARCHAR PRIMARY KEY,
    position BIGINT NOT NULL DEFAULT nextval('positions'),
    imported_at TIMESTAMP NOT NULL,
    name VARCHAR NOT NULL,
    digest VARCHAR NOT NULL
);

CREATE TABLE pack_datasets (
    pack_id VARCHAR NOT NULL,
    dataset_hash VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    facts VARCHAR NOT NULL
);

CREATE TABLE pack_notes (
    heuristic_id VARCHAR PRIMARY KEY,
    pack_id VARCHAR NOT NULL,
    dataset VARCHAR NOT NULL,
    backbone VARCHAR NOT NULL
);

CREATE TABLE pack_trials (
    pack_id VARCHAR NOT NULL,
    dataset_hash VARCHAR NOT NULL,
    backbone VARCHAR NOT NULL,
    filter_seen VARCHAR NOT NULL,
    trainer_version VARCHAR NOT NULL,
    config_hash VARCHAR NOT NULL,
    config VARCHAR NOT NULL,
    seed BIGINT NOT NULL,
    scores MAP(VARCHAR, DOUBLE) NOT NULL
);

CREATE OR REPLACE VIEW note_states AS
SELECT n.*, coalesce(s.dataset, p.dataset) AS dataset, coalesce(s.backbone, p.backbone) AS backbone,
    newer.superseded_by, c.claim, c.forced, c.transfer, c.n_pairs, c.n_datasets, c.effect, c.low, c.high,
    CASE WHEN n.kind = 'heuristic' THEN coalesce(c.verdict, 'insufficient') END AS verdict
FROM notes n
LEFT JOIN studies s ON s.study_id = n.study_id
LEFT JOIN pack_notes p ON p.heuristic_id = n.heuristic_id
LEFT JOIN claim_states c ON c.heuristic_id = n.heuristic_id
LEFT JOIN (
    SELECT older, arg_min(heuristic_id, position) AS superseded_by
    FROM (SELECT unnest(supersedes) AS older, heuristic_id, position FROM notes)
    GROUP BY older
) newer ON newer.older = n.heuristic_id
WHERE s.study_id IS NOT NULL OR p.pack_id IS NOT NULL;
