//! Values that no log, error or `Debug` may show.

use std::fmt;

/// What is shorter is no secret, and would black out half of every message.
const SHORTEST: usize = 4;

/// The secrets that a store knows, for taking them out of what it says.
#[derive(Clone, Default)]
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    /// Remembers a secret, and how it looks inside a URL.
    pub(super) fn add(&mut self, secret: &str) {
        let encoded: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        for form in [secret.trim().to_owned(), encoded] {
            if form.len() >= SHORTEST && !self.0.contains(&form) {
                self.0.push(form);
            }
        }
        // The longest first: one secret may hold another.
        self.0.sort_by_key(|form| std::cmp::Reverse(form.len()));
    }

    /// The text without any of them.
    pub(super) fn scrub(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "…"))
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({} withheld)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_taken_out_also_where_it_is_encoded() {
        let mut secrets = Secrets::default();
        secrets.add("a/b+secret=");
        let said = secrets.scrub("key a/b+secret= in ?sig=a%2Fb%2Bsecret%3D&x");
        assert!(!said.contains("secret"), "{said}");
        assert_eq!(format!("{secrets:?}"), "Secrets(2 withheld)");
    }
}
