//! Buffers that a thread keeps, so that most images allocate nothing; and their bound.

/// Makes `buffer` at least `length` long. What it held is not kept, nor cleared: the caller overwrites what it reads.
pub(super) fn grow(buffer: &mut Vec<u8>, length: usize) {
    if buffer.len() < length {
        if buffer.capacity() < length {
            // Nothing in it is wanted: freeing first halves the peak.
            *buffer = Vec::new();
        }
        buffer.resize(length, 0);
    }
}

/// Frees `buffer` when it has more than `limit` bytes: one huge image must not cost memory for the rest of the epoch.
pub(super) fn trim(buffer: &mut Vec<u8>, limit: usize) {
    if buffer.capacity() > limit {
        *buffer = Vec::new();
    }
}
