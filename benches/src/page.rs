//! The report as one page that needs nothing else: conditions, plots, tables.

use crate::engine;
use crate::figures::{OURS, REFERENCE, Row, Verdict};
use crate::plot::{self, Line, leading_number};
use crate::report::{Chapter, Report};
use crate::table::{self, HEAD, NAMES};
use anyhow::Result;
use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = include_str!("page.css");
/// Sizes that make a line.
const SIZES_MIN: usize = 3;

pub fn page(report: &Report) -> Result<String> {
    let chapters: Vec<Markup> = report.chapters.iter().map(|it| chapter(it, &report.rows)).collect::<Result<_>>()?;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Fairway: what a packet and a table change cost" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "What a packet and a table change cost" }
                (tiles(&report.rows))
                (ratios(&report.rows))
                @for chapter in &chapters { (chapter) }
                section {
                    h2 { "Conditions" }
                    dl { @for (name, value) in report.conditions.list() { dt { (name) } dd { (value) } } }
                }
            }
        }
    };
    Ok(page.into_string())
}

fn tiles(rows: &[Row]) -> Markup {
    let count = |verdict| rows.iter().filter(|row| row.verdict() == verdict).count();
    let tiles = [
        (Verdict::Aim, "aims reached"),
        (Verdict::Floor, "minima reached"),
        (Verdict::Missed, "missed"),
        (Verdict::Failed, "failed to run"),
    ];
    html! {
        div.tiles {
            @for (verdict, name) in tiles {
                div.tile { span class={ "count " (class(verdict)) } { (count(verdict)) } " " (name) }
            }
        }
    }
}

fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Aim => "good",
        Verdict::Floor => "fair",
        Verdict::Missed | Verdict::Failed => "bad",
        Verdict::Plain => "",
    }
}

/// How many times faster ours is than each peer, on a logarithmic scale that has 1 in it.
fn ratios(rows: &[Row]) -> Markup {
    let compared: Vec<(&Row, f64)> = rows.iter().filter_map(|row| Some((row, row.ratio?))).collect();
    let low = compared.iter().fold(1f64, |low, (_, ratio)| low.min(*ratio)).ln();
    let high = compared.iter().fold(1f64, |high, (row, ratio)| high.max(*ratio).max(row.ratio_min.unwrap_or(1.0))).ln();
    let place = |ratio: f64| (ratio.max(1e-9).ln() - low) / (high - low).max(1e-9) * 100.0;
    html! {
        @if !compared.is_empty() {
            section {
                h2 { "Ours against peers" }
                p { "How many times less ours costs, in the same run. Logarithmic; the line is 1 x, a tick what is wanted." }
                div.bars {
                    @for (row, ratio) in &compared {
                        span.name { (row.what) ", " (row.size) span.dim { " · " (row.by) } }
                        span.track {
                            span class={ "bar " (if *ratio >= 1.0 { "ours" } else { "worse" }) } style=(between(place(1.0), place(*ratio))) {}
                            span.tick.one style=(at(place(1.0))) {}
                            @if let Some(min) = row.ratio_min { span.tick style=(at(place(min))) {} }
                        }
                        span class={ "value " (class(row.verdict())) } { (table::number(*ratio)) " x" }
                    }
                }
            }
        }
    }
}

fn between(one: f64, other: f64) -> String {
    format!("left:{:.2}%;width:{:.2}%", one.min(other), (one - other).abs())
}

fn at(place: f64) -> String {
    format!("left:{place:.2}%")
}

fn chapter(chapter: &Chapter, rows: &[Row]) -> Result<Markup> {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.title == chapter.title).collect();
    let lines = lines(&chapter.title, &rows);
    let plot = if lines.is_empty() { bars(&rows) } else { plotted(&lines, &format!("{} each", unit(&rows)))? };
    Ok(html! {
        section {
            h2 { (chapter.title) }
            p { (chapter.about) }
            (plot)
            (figures(&rows))
        }
    })
}

/// What was measured at enough sizes of one kind, one line for each name and side.
fn lines(title: &str, rows: &[&Row]) -> Vec<Line> {
    let (unit, has_peers) = (unit(rows), rows.iter().any(|row| row.is_peer()));
    let mut lines: Vec<Line> = Vec::new();
    for row in rows.iter().filter(|row| row.by != REFERENCE && row.unit == unit) {
        let (Some(figures), Some(x)) = (row.figures, leading_number(&row.size)) else { continue };
        let name = if row.by == OURS && !has_peers { row.what.clone() } else { row.by.clone() };
        let number = lines.len();
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push((x, figures.median)),
            None => lines.push(Line { name, number, is_dashed: false, points: vec![(x, figures.median)] }),
        }
    }
    let mut kinds: Vec<&str> = rows.iter().map(|row| row.size.split_once(' ').map_or("", |(_, kind)| kind)).collect();
    kinds.dedup();
    if kinds.len() > 1 || !lines.iter().any(|line| line.points.len() >= SIZES_MIN) {
        return Vec::new();
    }
    if title == engine::TITLE {
        let dashed = |name: &str, number, points| Line { name: name.to_owned(), number, is_dashed: true, points };
        lines.push(dashed("encap by VPP, measured elsewhere", 5, engine::VPP_ELSEWHERE.to_vec()));
        lines.push(dashed("encap, wanted at most", 6, wanted(rows, |row| row.floor)));
        lines.push(dashed("encap, aim", 7, wanted(rows, |row| row.aim)));
    }
    lines
}

/// What most of a chapter is measured in.
fn unit<'r>(rows: &[&'r Row]) -> &'r str {
    rows.iter().find(|row| row.by != REFERENCE).map_or("", |row| &row.unit)
}

fn wanted(rows: &[&Row], of: fn(&Row) -> Option<f64>) -> Vec<(f64, f64)> {
    let unit = unit(rows);
    let rows = rows.iter().filter(|row| row.unit == unit);
    rows.filter_map(|row| Some((leading_number(&row.size)?, of(row)?))).collect()
}

fn plotted(lines: &[Line], y_name: &str) -> Result<Markup> {
    let svg = plot::lines(lines, y_name)?;
    Ok(html! {
        figure {
            (PreEscaped(svg))
            figcaption {
                @for line in lines {
                    span.key {
                        span class={ "swatch" @if line.is_dashed { " dashed" } } style={ "--c:var(--s" (line.number % plot::COLOURS) ")" } {}
                        (line.name)
                    }
                }
            }
        }
    })
}

/// Costs as bars; those of another unit than the first one's are in the table only.
fn bars(rows: &[&Row]) -> Markup {
    let unit = unit(rows);
    let shown = rows.iter().filter(|row| row.by != REFERENCE && row.unit == unit);
    let shown: Vec<(&Row, f64)> = shown.filter_map(|row| Some((*row, row.figures?.median))).collect();
    let high = shown.iter().fold(0f64, |high, (row, value)| high.max(*value).max(row.floor.unwrap_or(0.0))).max(1e-9);
    let place = |value: f64| value.max(0.0) / high * 100.0;
    html! {
        div.bars {
            @for (row, value) in &shown {
                span.name { (row.what) ", " (row.size) @if row.is_peer() { span.dim { " · " (row.by) } } }
                span.track {
                    span class={ "bar " (if row.is_ours() { "ours" } else { "peer" }) } style=(between(0.0, place(*value))) {}
                    @for wanted in [row.floor, row.aim].into_iter().flatten() { span.tick style=(at(place(wanted))) {} }
                }
                span class={ "value " (class(row.verdict())) } { (table::quantity(*value, unit)) }
            }
        }
    }
}

fn figures(rows: &[&Row]) -> Markup {
    html! {
        div.wide {
            table {
                thead { tr { @for (i, head) in HEAD.iter().enumerate() { th.right[is_figure(i)] { (head) } } } }
                tbody { @for row in rows { (line(row)) } }
            }
        }
    }
}

fn line(row: &Row) -> Markup {
    let cells = table::cells(row);
    let kind = if row.by == REFERENCE {
        "reference"
    } else if row.is_ours() {
        "own"
    } else {
        ""
    };
    html! {
        tr class=(kind) {
            @for (i, cell) in cells.iter().enumerate().take(if row.error.is_some() { NAMES } else { HEAD.len() }) {
                @if i + 1 == HEAD.len() { td class=(class(row.verdict())) { (cell) } }
                @else { td.right[is_figure(i)] { (cell) } }
            }
            @if row.error.is_some() { td.bad colspan=(HEAD.len() - NAMES) { (cells[NAMES]) } }
        }
    }
}

fn is_figure(column: usize) -> bool {
    (NAMES..HEAD.len() - 1).contains(&column)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{By, Cost, Target};
    use crate::conditions::Conditions;
    use crate::figures::{Measured, rows};

    fn case(by: By, size: &str, rounds: Result<Vec<Cost>, String>) -> Measured {
        let (what, target) = ("a <b>".to_owned(), Target::default());
        Measured { what, size: size.into(), unit: "ns", by, subtract: false, target, bytes: None, rounds }
    }

    #[test]
    fn a_page_is_whole_and_shows_what_failed() {
        let cost = || Ok(vec![Cost::plain(4.0)]);
        let mut cases: Vec<Measured> = ["1k", "10k", "1M"].iter().map(|size| case(By::Ours, size, cost())).collect();
        cases.push(case(By::Peer("other"), "1k", cost()));
        cases.push(case(By::Peer("other"), "10k", Err("no such library".to_owned())));
        let chapters = vec![Chapter { title: "t".into(), about: "about".into() }];
        let report = Report { conditions: Conditions::now(1, None), chapters, rows: rows("t", &cases) };
        let page = page(&report).unwrap();
        assert!(page.contains("a &lt;b&gt;") && !page.contains("a <b>"), "names are escaped");
        assert!(page.contains("ERROR: no such library") && page.contains("<svg") && page.contains("1.00 x"));
        assert!(!page.contains("src=") && !page.contains("href="), "nothing is fetched");
    }
}
