//! Ranged reads of one object store: retried, with If-Match on every range; one file per family of stores.
