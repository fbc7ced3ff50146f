//! A line chart over time, as SVG. Its text is HTML next to it, because the image is stretched to its box.

use std::fmt::Write;

use maud::{Markup, html};

const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 72.0;
/// Margin above and below, so that the stroke isn't clipped.
const EDGE: f64 = 2.0;
/// Maximum number of points drawn: more than is visible on a screen.
const POINTS_MAX: usize = 240;

/// What a chart shows.
pub(super) struct Chart<'a> {
    pub(super) name: &'a str,
    /// The latest value, as text.
    pub(super) value: String,
    /// The highest, as text.
    pub(super) most: String,
    /// The time range, as text.
    pub(super) over: &'a str,
    /// Seconds since the first sample, and the value; in order.
    pub(super) points: Vec<(f64, f64)>,
}

impl Chart<'_> {
    /// Renders an HTML figure.
    pub(super) fn html(&self) -> Markup {
        let Self { name, value, most, over, points } = self;
        let (line, area) = paths(points);
        html! {
            figure class="card chart" {
                figcaption { span { (name) } " " b { (value) } }
                svg role="img" aria-label={ (name) ": " (value) " now, " (most) " at the highest, over " (over) }
                    viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" {
                    path class="area" d=(area) {}
                    path class="line" d=(line) {}
                }
                p class="axis" { span { (over) " ago" } " " span { "highest " (most) } " " span { "now" } }
            }
        }
    }
}

/// SVG paths of the line and of the area below it. The top is the largest value, the bottom 0.
fn paths(points: &[(f64, f64)]) -> (String, String) {
    let step = points.len().div_ceil(POINTS_MAX).max(1);
    // Counted from the end, so that the latest point is always included.
    let mut drawn: Vec<(f64, f64)> = points.iter().rev().step_by(step).copied().collect();
    drawn.reverse();
    let (Some(&(first, _)), Some(&(last, end))) = (drawn.first(), drawn.last()) else { return Default::default() };
    if drawn.len() == 1 {
        drawn.push((last + 1.0, end));
    }
    let length = if last > first { last - first } else { 1.0 };
    let top = drawn.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    let mut line = String::new();
    for (at, value) in &drawn {
        let height = if top > 0.0 { value / top } else { 0.0 };
        let (x, y) = ((at - first) / length * WIDTH, HEIGHT - EDGE - height * (HEIGHT - 2.0 * EDGE));
        let command = if line.is_empty() { 'M' } else { 'L' };
        // Writing to a string can't fail.
        let _ = write!(line, "{command}{x:.1} {y:.1}");
    }
    let area = format!("{line}L{WIDTH} {HEIGHT}L0 {HEIGHT}Z");
    (line, area)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_points_in_place() {
        assert_eq!(paths(&[(0.0, 0.0), (30.0, 5.0), (60.0, 10.0)]).0, "M0.0 70.0L160.0 36.0L320.0 2.0");
        assert_eq!(paths(&[(0.0, 0.0)]).0, "M0.0 70.0L320.0 70.0", "one point is a line, too");
        assert_eq!(paths(&[]), (String::new(), String::new()));
        let many: Vec<(f64, f64)> = (0..1440).map(|minute| (f64::from(minute), 1.0)).collect();
        let line = paths(&many).0;
        assert!(line.matches('L').count() < POINTS_MAX && line.ends_with("L320.0 2.0"), "{line}");
    }

    #[test]
    fn a_name_is_text() {
        let chart = Chart { name: "<b>", value: "\"1\"".to_owned(), most: "<2>".to_owned(), over: "1 h", points: vec![(0.0, 1.0)] };
        assert!(
            chart.html().into_string().contains("aria-label=\"&lt;b&gt;: &quot;1&quot; now, &lt;2&gt; at the highest, over 1 h\""),
            "{}",
            chart.html().into_string()
        );
    }
}
