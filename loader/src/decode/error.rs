//! Why a member's bytes are not the value that its field asks for.

/// What is wrong with a member and, where that can be said, at which of its bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}{}", at_byte(*.offset))]
pub struct DecodeError {
    /// What is wrong and what would be right.
    pub what: String,
    /// Bytes from the start of the member.
    pub offset: Option<u64>,
    /// Bytes of memory with which it may succeed, where the limit on them is what is wrong.
    pub needs_bytes: Option<u64>,
}

/// The module's result.
pub type Result<T, E = DecodeError> = std::result::Result<T, E>;

impl DecodeError {
    /// An error of the member as a whole.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), offset: None, needs_bytes: None }
    }

    /// An error at a byte of the member.
    pub fn at(what: impl Into<String>, offset: u64) -> Self {
        Self { what: what.into(), offset: Some(offset), needs_bytes: None }
    }
}

fn at_byte(offset: Option<u64>) -> String {
    offset.map(|offset| format!(" (at byte {offset} of the member)")).unwrap_or_default()
}
