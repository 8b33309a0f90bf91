//! Reports as text for people, or as JSON for programs.

use std::io::{ErrorKind, Write};

use serde::Serialize;

use super::failure::Failure;

/// What a command found or did.
pub(super) trait Report: Serialize {
    /// For people; ends without a newline.
    fn text(&self) -> String;
}

/// Prints a report to standard output.
pub(super) fn print(report: &impl Report, json: bool) -> Result<(), Failure> {
    let text = if json {
        serde_json::to_string_pretty(report).map_err(|error| Failure::failed(error.to_string()))?
    } else {
        report.text()
    };
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        // `forebay ls | head` has read what it wanted.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::io("the result can't be printed", &error)),
        Ok(()) => Ok(()),
    }
}

/// A table of aligned columns: the first to the left, the others as asked.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    /// Columns that stand to the right, as numbers do.
    right: Vec<usize>,
}

impl Table {
    pub(super) fn new(head: &[&str], right: &[usize]) -> Self {
        let rows = if head.is_empty() { vec![] } else { vec![head.iter().map(|&h| h.into()).collect()] };
        Self { rows, right: right.into() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(super) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |at: usize| {
            self.rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(at, (cell, &width))| {
                    if self.right.contains(&at) {
                        format!("{cell:>width$}")
                    } else {
                        format!("{cell:<width$}")
                    }
                })
                .collect();
            cells.join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// A number with its noun: "1 shard", "2 shards".
pub(super) fn count(number: u64, noun: &str) -> String {
    let digits = grouped(number);
    match number {
        1 => format!("1 {noun}"),
        _ if noun.ends_with("ss") || noun.ends_with("ch") => format!("{digits} {noun}es"),
        _ => format!("{digits} {noun}s"),
    }
}

/// A number with commas: "1,281,167".
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A name for a terminal: control characters can't move its cursor.
pub(super) fn clean(name: &str) -> String {
    name.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["shard", "samples"], &[1]);
        table.row(["a.tar".into(), "5".into()]);
        table.row(["longer.tar".into(), "1,000".into()]);
        assert_eq!(table.text(), "shard       samples\na.tar             5\nlonger.tar    1,000");
    }

    #[test]
    fn numbers_have_nouns_and_commas() {
        assert_eq!(count(1, "shard"), "1 shard");
        assert_eq!(count(1_281_167, "sample"), "1,281,167 samples");
        assert_eq!(count(3, "class"), "3 classes");
        assert_eq!(count(2, "batch"), "2 batches");
        assert_eq!((grouped(0), grouped(100), grouped(1000)), ("0".into(), "100".into(), "1,000".into()));
    }

    #[test]
    fn a_name_can_not_move_the_cursor() {
        assert_eq!(clean("a\u{1b}[2Jb é"), "a\\u{1b}[2Jb é");
    }
}
