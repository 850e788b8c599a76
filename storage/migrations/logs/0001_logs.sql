-- The index of the log segments. Bytes lie in files; a row says where, and is there only after they are durable.
CREATE TABLE attempts (
    key           INTEGER PRIMARY KEY,
    attempt       BLOB    NOT NULL UNIQUE,
    next_position INTEGER NOT NULL
);

-- What is known of each stream as a whole, so that no question needs all of its chunks.
CREATE TABLE streams (
    attempt  INTEGER NOT NULL,
    stream   INTEGER NOT NULL,
    chunks   INTEGER NOT NULL,
    bytes    INTEGER NOT NULL,
    next_seq INTEGER NOT NULL,
    top_seq  INTEGER NOT NULL, -- the highest stored
    ordered  INTEGER NOT NULL, -- 1: every chunk came after all lower ones, so `start` holds
    PRIMARY KEY (attempt, stream)
) WITHOUT ROWID;

CREATE TABLE chunks (
    attempt   INTEGER NOT NULL,
    position  INTEGER NOT NULL,
    stream    INTEGER NOT NULL,
    seq       INTEGER NOT NULL,
    stored_at INTEGER NOT NULL,
    segment   INTEGER NOT NULL,
    place     INTEGER NOT NULL, -- of the first byte in the segment
    length    INTEGER NOT NULL,
    start     INTEGER NOT NULL, -- of the first byte in its stream, as long as the stream is ordered
    crc       INTEGER NOT NULL,
    PRIMARY KEY (attempt, position)
) WITHOUT ROWID;
CREATE UNIQUE INDEX chunks_by_seq ON chunks (attempt, stream, seq);

CREATE TABLE segments (
    id   INTEGER PRIMARY KEY,
    live INTEGER NOT NULL -- chunks that somebody may still read
);
