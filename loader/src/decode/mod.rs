//! A member's bytes → a value in a given slice of a batch slot, on rayon workers.
