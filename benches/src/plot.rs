//! Lines over a number of things, as SVG that stands inside a page: its colours are the page's CSS variables, so that it is
//! readable on light and dark ground. Must not know what is plotted.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// One line. `number` chooses its colour: `var(--s0)` and so on.
pub struct Line {
    pub name: String,
    pub number: usize,
    pub is_dashed: bool,
    /// By x.
    pub points: Vec<(f64, f64)>,
}

/// Colours of the page that lines may have.
pub const COLOURS: usize = 8;
const SIZE: (u32, u32) = (860, 360);
const TEXT: RGBColor = RGBColor(1, 2, 3);
const GRID: RGBColor = RGBColor(1, 2, 4);
const GROUND: RGBColor = RGBColor(1, 2, 5);

/// Stands for a colour of the page until the drawing is done.
fn colour(number: usize) -> RGBColor {
    RGBColor(2, 2, (number % COLOURS) as u8)
}

/// Lines over a logarithmic x and a linear y from 0 on.
pub fn lines(lines: &[Line], y_name: &str) -> Result<String> {
    let mut svg = String::new();
    draw(&mut svg, lines, y_name).map_err(|error| anyhow!("cannot draw: {error}"))?;
    Ok(with_page_colours(svg))
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(svg: &mut String, lines: &[Line], y_name: &str) -> Drawn {
    let points = || lines.iter().flat_map(|line| &line.points);
    let (first, last) = points().fold((f64::INFINITY, 0f64), |(low, high), (x, _)| (low.min(*x), high.max(*x)));
    let top = points().fold(0f64, |high, (_, y)| high.max(*y)) * 1.08;
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(60)
        .build_cartesian_2d((first * 0.8..last * 1.25).log_scale(), 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .y_desc(y_name)
        .y_labels(6)
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .label_style(("sans-serif", 13, &TEXT))
        .axis_desc_style(("sans-serif", 13, &TEXT))
        .draw()?;
    for line in lines {
        let style = colour(line.number).stroke_width(2);
        let points = line.points.iter().copied();
        if line.is_dashed {
            chart.draw_series(DashedLineSeries::new(points.clone(), 5, 5, style))?;
        } else {
            chart.draw_series(LineSeries::new(points.clone(), style))?;
        }
        // A ring in the page's colour keeps points apart from lines that cross them.
        chart.draw_series(points.clone().map(|point| Circle::new(point, 6, GROUND.filled())))?;
        chart.draw_series(points.map(|point| Circle::new(point, 4, colour(line.number).filled())))?;
    }
    area.present()?;
    Ok(())
}

fn with_page_colours(svg: String) -> String {
    let hex = |colour: RGBColor| format!("#{:02X}{:02X}{:02X}", colour.0, colour.1, colour.2);
    let named =
        [(TEXT, "var(--dim)".to_owned()), (GRID, "var(--line)".to_owned()), (GROUND, "var(--ground)".to_owned())];
    let all = (0..COLOURS).map(|i| (colour(i), format!("var(--s{i})"))).chain(named);
    let svg = all.fold(svg, |svg, (from, to)| svg.replace(&hex(from), &to));
    // As wide as its place, not as it was drawn.
    svg.replacen(&format!("width=\"{}\" height=\"{}\"", SIZE.0, SIZE.1), "width=\"100%\"", 1)
}

/// 1k, 10k, 4M.
fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", value / 1e6),
        value if value >= 1e3 => format!("{}k", value / 1e3),
        value => format!("{value}"),
    }
}

/// The number that a size begins with: "10k flows", "5,000 routes".
pub fn leading_number(size: &str) -> Option<f64> {
    let word = size.split(' ').next()?.replace(',', "");
    let (digits, factor) = match word.strip_suffix(['k', 'M']) {
        Some(digits) => (digits.to_owned(), if word.ends_with('k') { 1e3 } else { 1e6 }),
        None => (word, 1.0),
    };
    Some(digits.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_numbers() {
        let numbers = ["1k flows", "4M flows", "5,000 routes", "-", "flows"].map(leading_number);
        assert_eq!(numbers, [Some(1e3), Some(4e6), Some(5e3), None, None]);
    }

    #[test]
    fn a_plot_has_a_line_a_mark_for_each_point_and_only_the_pages_colours() {
        let line = Line { name: "a".into(), number: 3, is_dashed: false, points: vec![(1e3, 5.0), (1e6, 50.0)] };
        let svg = lines(&[line], "ns").unwrap();
        assert_eq!(svg.matches("<circle").count(), 4);
        assert!(svg.contains("var(--s3)") && !svg.contains("#020203") && !svg.contains("http://www.w3.org/1999/xlink"));
        assert!(svg.contains(">10k<") || svg.contains("\n10k\n"), "{svg}");
    }
}
