//! Cuts a YAML stream into its documents, each with the number of its first line, so that a mistake in one does not
//! hide the others and still has its line in the file.

/// A document and the lines before it.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct Document<'a> {
    pub text: &'a str,
    pub lines_before: u64,
}

/// The documents that hold more than comments and directives. A line that begins with `---` and goes on with white space
/// or nothing starts a document wherever it stands (YAML 1.2.2, 9.1.2: it is forbidden inside of scalars).
pub fn documents(text: &str) -> Vec<Document<'_>> {
    let mut found = Vec::new();
    let (mut start, mut start_line) = (0, 0);
    let mut at = 0;
    for (line_number, line) in text.split_inclusive('\n').enumerate() {
        if is_marker(line) && at > start {
            found.push(Document { text: &text[start..at], lines_before: start_line });
            (start, start_line) = (at, line_number as u64);
        }
        at += line.len();
    }
    found.push(Document { text: &text[start..], lines_before: start_line });
    found.retain(|document| has_content(document.text));
    found
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

fn has_content(document: &str) -> bool {
    document.lines().any(|line| {
        let line = if is_marker(line) { &line[3..] } else { line };
        let content = line.trim_start_matches('\u{feff}').trim_start();
        !content.is_empty() && !content.starts_with('#') && !line.starts_with('%') && line.trim_end() != "..."
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<(u64, &str)> {
        documents(text).into_iter().map(|d| (d.lines_before, d.text)).collect()
    }

    #[test]
    fn documents_keep_their_place_and_empty_ones_vanish() {
        assert_eq!(cut("a: 1\n---\nb: 2\n"), [(0, "a: 1\n"), (1, "---\nb: 2\n")]);
        assert_eq!(cut("# only\n---\n# this\n--- # too\n\n---\nb: 2"), [(5, "---\nb: 2")]);
        assert_eq!(cut("%YAML 1.2\n---\na: 1\n...\n"), [(1, "---\na: 1\n...\n")]);
        assert_eq!(cut(""), []);
        assert_eq!(cut("a: |\n  ---\n  b\n---x: 1\n").len(), 1);
    }
}
