//! The report as a table for a terminal, and how its figures are written.

use crate::figures::{Row, Verdict};

pub const HEAD: [&str; 10] =
    ["what", "size", "by", "each", "ticks", "spread", "min..max", "memory", "ours faster", "wanted"];
/// Columns of words stand to the left, figures to the right.
pub const NAMES: usize = 3;

/// All rows, a chapter for each title.
pub fn table(rows: &[Row]) -> String {
    let lines: Vec<[String; HEAD.len()]> = rows.iter().map(cells).collect();
    let mut widths = HEAD.map(str::len);
    for (row, line) in rows.iter().zip(&lines) {
        // A reason may be long: it is the last thing on its line.
        let cells = if row.figures.is_some() { line.len() } else { NAMES };
        for (width, cell) in widths.iter_mut().zip(&line[..cells]) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let (mut text, mut title) = (String::new(), "");
    for (row, line) in rows.iter().zip(&lines) {
        if row.title != title {
            title = &row.title;
            text += &format!("\n{title}\n{}", aligned(&HEAD.map(String::from), &widths));
        }
        text += &aligned(line, &widths);
    }
    text
}

fn aligned(cells: &[String; HEAD.len()], widths: &[usize; HEAD.len()]) -> String {
    let mut line = String::new();
    for (i, (cell, &width)) in cells.iter().zip(widths).enumerate() {
        let is_name = i < NAMES || i + 1 == HEAD.len();
        line += &if is_name { format!("  {cell:<width$}") } else { format!("  {cell:>width$}") };
    }
    format!("{}\n", line.trim_end())
}

/// A row's cells, as they are in every table.
pub fn cells(row: &Row) -> [String; HEAD.len()] {
    let mut cells = [const { String::new() }; HEAD.len()];
    (cells[0], cells[1], cells[2]) = (row.what.clone(), row.size.clone(), row.by.clone());
    let Some(figures) = row.figures else {
        cells[NAMES] = format!("ERROR: {}", row.error.as_deref().unwrap_or("no reason given"));
        return cells;
    };
    cells[3] = quantity(figures.median, &row.unit);
    cells[4] = figures.ticks.map_or(String::new(), |ticks| format!("{ticks:.0}"));
    cells[5] = spread(figures.deviation, figures.median);
    cells[6] = format!("{}..{}", number(figures.min), number(figures.max));
    cells[7] = row.bytes.map_or(String::new(), bytes);
    cells[8] = row.ratio.map_or(String::new(), |ratio| format!("{ratio:.2} x"));
    cells[9] = wanted(row);
    cells
}

/// The deviation as a share of the median.
fn spread(deviation: f64, median: f64) -> String {
    if deviation == 0.0 || median == 0.0 { String::new() } else { format!("{:.1} %", deviation / median.abs() * 100.0) }
}

/// What was asked and whether it is reached.
fn wanted(row: &Row) -> String {
    let limit = |sign: &str, value: Option<f64>| value.map(|value| format!("{sign} {}", number(value)));
    let least = row.ratio_min.map(|min| format!(">= {} x", number(min)));
    let parts: Vec<String> = [limit("<=", row.floor), limit("aim", row.aim), least].into_iter().flatten().collect();
    let verdict = match row.verdict() {
        Verdict::Aim => "aim reached",
        Verdict::Floor => "reached",
        Verdict::Missed => "MISSED",
        Verdict::Failed | Verdict::Plain => "",
    };
    if parts.is_empty() { String::new() } else { format!("{}: {verdict}", parts.join(", ")) }
}

/// A figure with its unit.
pub fn quantity(value: f64, unit: &str) -> String {
    match unit {
        "ratio" => format!("{value:.2} x"),
        unit => format!("{} {unit}", number(value)),
    }
}

/// Three digits or more.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

pub fn bytes(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = UNITS.iter().find(|(_, size)| bytes >= *size);
    unit.map_or(format!("{bytes} B"), |(name, size)| format!("{} {name}", number(bytes as f64 / *size as f64)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{By, Cost, Target};
    use crate::figures::{Measured, rows};

    #[test]
    fn an_error_stands_in_its_row() {
        let case = |rounds| Measured {
            what: "look-up".into(),
            size: "10".into(),
            unit: "ns",
            by: By::Ours,
            subtract: false,
            target: Target::at_most(5.0, 4.0),
            bytes: Some(3 << 19),
            rounds,
        };
        let text = table(&rows("chapter", &[case(Ok(vec![Cost::plain(7.0)])), case(Err("no such library".into()))]));
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("look-up")).collect();
        assert!(
            lines[0].contains("7.00 ns") && lines[0].contains("1.50 MiB") && lines[0].ends_with("MISSED"),
            "{text}"
        );
        assert!(lines[1].ends_with("ERROR: no such library"), "{text}");
    }
}
