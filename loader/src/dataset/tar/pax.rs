//! Extended headers: what pax records and GNU long names say about the member that follows.

use crate::dataset::Malformed;

/// What extended headers override, for one member or for the rest of the archive.
#[derive(Clone, Debug, Default)]
pub(super) struct Extended {
    /// The member's name.
    pub(super) path: Option<Vec<u8>>,
    /// The name of a sparse file, for which `path` may be a stand-in.
    pub(super) sparse_path: Option<Vec<u8>>,
    /// The member's stored size.
    pub(super) size: Option<u64>,
    /// True where a GNU.sparse record was seen.
    pub(super) sparse: bool,
}

impl Extended {
    /// Reads the records of a pax header, `offset` being where they start in the shard.
    pub(super) fn parse(payload: &[u8], offset: u64) -> Result<Self, Malformed> {
        let mut extended = Self::default();
        let mut rest = payload;
        while !rest.is_empty() && rest.iter().any(|&byte| byte != 0) {
            let at = offset + (payload.len() - rest.len()) as u64;
            let (key, value, after) = record(rest).ok_or_else(|| {
                Malformed::new(at, "a record of a pax header is not of the form \"LENGTH KEY=VALUE\\n\"; the shard is corrupt here")
            })?;
            extended.apply(key, value).map_err(|what| Malformed::new(at, what))?;
            rest = after;
        }
        Ok(extended)
    }

    /// Takes what `other` says where nothing is said here: the first header before a member wins, as in Python's tarfile.
    pub(super) fn or(&mut self, other: &Self) {
        self.path = self.path.take().or_else(|| other.path.clone());
        self.sparse_path = self.sparse_path.take().or_else(|| other.sparse_path.clone());
        self.size = self.size.or(other.size);
        self.sparse |= other.sparse;
    }

    fn apply(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        // POSIX: an empty value takes the record back.
        let path = || (!value.is_empty()).then(|| without_slashes(value).to_vec());
        match key {
            b"path" => self.path = path(),
            b"size" => self.size = size(value)?,
            b"GNU.sparse.name" => (self.sparse_path, self.sparse) = (path(), true),
            key if key.starts_with(b"GNU.sparse.") => self.sparse = true,
            _ => {}
        }
        Ok(())
    }
}

/// A name without the slashes at its end.
pub(super) fn without_slashes(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
    &path[..end]
}

fn size(value: &[u8]) -> Result<Option<u64>, String> {
    if value.is_empty() {
        return Ok(None);
    }
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse::<i64>().ok()?.try_into().ok())
        .map(Some)
        .ok_or_else(|| {
            format!("a pax header claims a size of {} bytes; the shard is corrupt here", super::shown(value))
        })
}

/// Splits `LENGTH KEY=VALUE\n` off the front; LENGTH counts all of it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|&byte| byte == b' ')?;
    let digits = &bytes[..space];
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let body = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|&byte| byte == b'=')?;
    Some((&body[..equals], &body[equals + 1..], &bytes[length..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_and_broken_ones_are_named() {
        let extended = Extended::parse(b"12 path=a/b\n9 size=7\n\0\0", 0).unwrap();
        assert_eq!((extended.path.as_deref(), extended.size), (Some(&b"a/b"[..]), Some(7)));
        for (bad, at) in
            [(&b"12 path=a/b\n99 size=7\n"[..], 112), (b"0 \n", 100), (b"5 a=b", 100), (b"10 size=-1\n", 100)]
        {
            let error = Extended::parse(bad, 100).unwrap_err();
            assert_eq!(error.offset, at, "{error}");
        }
    }
}
