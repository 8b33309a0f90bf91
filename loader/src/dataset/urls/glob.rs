//! Shell patterns over keys: `*`, `?`, `[abc]`, `[a-z]`, `[!abc]`, and `**` for any number of folders.
//!
//! As in shells and Python's `glob`: nothing but `**` crosses a slash, and a name that starts with a dot is matched only by a pattern
//! that does. `[*]`, `[?]` and `[[]` stand for the characters themselves.

/// True where `text` has a character that makes it a pattern.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// True where `key` fits `pattern`; both relative to the same folder.
pub(super) fn matches(pattern: &str, key: &str) -> bool {
    let keys: Vec<&str> = key.split('/').collect();
    // fits[n]: the patterns so far can take exactly the first n components.
    let mut fits = vec![false; keys.len() + 1];
    fits[0] = true;
    for component in pattern.split('/') {
        let before = std::mem::replace(&mut fits, vec![false; keys.len() + 1]);
        if component == "**" {
            let mut open = false;
            for n in 0..=keys.len() {
                open = before[n] || (open && !keys[n - 1].starts_with('.'));
                fits[n] = open;
            }
        } else {
            for n in 0..keys.len() {
                fits[n + 1] = before[n] && component_matches(component, keys[n]);
            }
        }
    }
    fits[keys.len()]
}

fn component_matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    // Where to go on when what follows the last star doesn't fit: that star takes one character more.
    let mut retry = None;
    while n < name.len() {
        if pattern.get(p) == Some(&'*') {
            retry = Some((p + 1, n));
            p += 1;
        } else if let Some(next) = one(&pattern, p, name[n]) {
            (p, n) = (next, n + 1);
        } else if let Some((after, from)) = retry {
            retry = Some((after, from + 1));
            (p, n) = (after, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&rest| rest == '*')
}

/// Where the pattern goes on if its part at `p` takes this character.
fn one(pattern: &[char], p: usize, character: char) -> Option<usize> {
    match *pattern.get(p)? {
        '?' => Some(p + 1),
        '[' => {
            let Some((taken, next)) = class(pattern, p, character) else {
                return (character == '[').then_some(p + 1);
            };
            taken.then_some(next)
        }
        literal => (literal == character).then_some(p + 1),
    }
}

/// `[...]` at `p`: whether it takes the character, and where it ends. `None` without a closing bracket: then `[` is itself.
fn class(pattern: &[char], p: usize, character: char) -> Option<(bool, usize)> {
    let negated = pattern.get(p + 1) == Some(&'!');
    let start = p + 1 + usize::from(negated);
    // A bracket right at the start is a member of the class.
    let end = start + 1 + pattern.get(start + 1..)?.iter().position(|&c| c == ']')?;
    let mut members = &pattern[start..end];
    let mut found = false;
    while let [first, rest @ ..] = members {
        if let ['-', last, rest @ ..] = rest {
            found |= (*first..=*last).contains(&character);
            members = rest;
        } else {
            found |= *first == character;
            members = rest;
        }
    }
    Some((found != negated, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_take_what_a_shell_takes() {
        let cases = [
            ("*.tar", "a.tar", true),
            ("*.tar", "a.tar.gz", false),
            ("*.tar", "d/a.tar", false),
            ("*.tar", ".a.tar", false),
            (".*.tar", ".a.tar", true),
            ("a-?.tar", "a-1.tar", true),
            ("a-?.tar", "a-10.tar", false),
            ("a-[0-3]*.tar", "a-27.tar", true),
            ("a-[!0-3].tar", "a-4.tar", true),
            ("a-[!0-3].tar", "a-2.tar", false),
            ("a[]x].tar", "a].tar", true),
            ("a[.tar", "a[.tar", true),
            ("a[*].tar", "a*.tar", true),
            ("a[*].tar", "ab.tar", false),
            ("*/x-*.tar", "d/x-1.tar", true),
            ("**/*.tar", "a.tar", true),
            ("**/*.tar", "d/e/a.tar", true),
            ("**/*.tar", "d/.e/a.tar", false),
            ("train/**", "train/a/b", true),
            ("*a*b*c", "xaxbxbxc", true),
            ("é?.tar", "éü.tar", true),
        ];
        for (pattern, key, wanted) in cases {
            assert_eq!(matches(pattern, key), wanted, "{pattern} {key}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "*a".repeat(50) + "b";
        assert!(!matches(&pattern, &"a".repeat(5000)));
        assert!(!matches(&("**/".repeat(50) + "b"), &"a/".repeat(500)));
    }
}
