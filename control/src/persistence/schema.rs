//! The tables, as a list of migrations. `PRAGMA user_version` counts those that have run; a released one is never edited.

pub(super) const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE payments (
        segment TEXT PRIMARY KEY,
        token BLOB NOT NULL UNIQUE,          -- SHA-256 of the Pay-Token
        binding BLOB NOT NULL,               -- SHA-256 over method, target and body
        asset_code TEXT NOT NULL,
        asset_scale INTEGER NOT NULL,
        price INTEGER NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('open', 'consuming', 'consumed')),
        answer TEXT,                         -- JSON body, of a consumed payment
        expires_at INTEGER NOT NULL          -- Unix milliseconds, like all times here
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE credits (
        segment TEXT NOT NULL REFERENCES payments ON DELETE CASCADE,
        condition BLOB NOT NULL,
        amount INTEGER NOT NULL,
        PRIMARY KEY (segment, condition)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE earnings (
        asset_code TEXT NOT NULL,
        asset_scale INTEGER NOT NULL,
        received INTEGER NOT NULL,
        earned INTEGER NOT NULL,
        forfeited INTEGER NOT NULL,
        PRIMARY KEY (asset_code, asset_scale)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE manifests (
        hash TEXT PRIMARY KEY,
        manifest TEXT NOT NULL,              -- JSON as uploaded, without private values
        spec TEXT NOT NULL,                  -- JSON of what to run, with private values; gone when the pod is
        port INTEGER,
        debug INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE pods (
        hash TEXT PRIMARY KEY REFERENCES manifests ON DELETE CASCADE,
        state TEXT NOT NULL CHECK (state IN ('starting', 'running', 'exited')),
        segment TEXT,                        -- starting: the payment being consumed
        seconds INTEGER,                     -- starting: bought in all; exited: left
        kept_seconds INTEGER,                -- starting: left from an earlier run, given back if the start fails
        at INTEGER                           -- running: when it expires; exited: when it is forgotten
    ) STRICT, WITHOUT ROWID;
    ",
    "CREATE TABLE peers (uri TEXT PRIMARY KEY) STRICT, WITHOUT ROWID; -- origins of other hosts that have shown who they are",
    "
    CREATE TABLE bans (
        kind TEXT NOT NULL CHECK (kind IN ('image', 'manifest')),
        subject TEXT NOT NULL,
        stop INTEGER NOT NULL,               -- whether what runs of it is to be stopped
        PRIMARY KEY (kind, subject)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE house (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID; -- what else the operator has said
    ",
    "
    CREATE TABLE marks (                     -- of pods that took their machine or hyperd down, or may have
        hash TEXT PRIMARY KEY,               -- outlives the manifest
        strikes INTEGER NOT NULL,
        suspicions INTEGER NOT NULL,
        last INTEGER NOT NULL                -- when the last one was made
    ) STRICT, WITHOUT ROWID;
    ",
    "
    -- Of a running pod, seconds is what was bought in all. It wasn't kept until now: what is left of it at least is known.
    UPDATE pods SET seconds = max(0, at / 1000 - unixepoch()) WHERE state = 'running';
    ALTER TABLE marks ADD COLUMN crashed BLOB;   -- incarnation that was last marked for taking its machine down
    ",
    "
    ALTER TABLE payments RENAME TO invoices;
    ALTER TABLE marks RENAME TO crash_history;
    ALTER TABLE house RENAME TO operator_settings;
    ",
];
