//! The plot: for each row and number of connections one dot, at the ratio of our processor time to nginx's.
//!
//! Columns are numbers of connections, lines are rows; the axis is logarithmic, so that half and double lie equally far from the line
//! at 1. A bar behind a dot spans the rounds, a tick is the same ratio of both processors. Colours are told apart with any colour vision, and the ratio stands beside the dot too.

use crate::results::{Measured, Results};
use std::fmt::Write;

/// Draws the run as SVG.
pub(crate) fn svg(results: &Results) -> String {
    let plot = Plot::of(results);
    let mut text = plot.frame(results);
    let mut y = TOP;
    let mut table = "";
    let mut label = "";
    for row in &results.rows {
        if row.table != table {
            table = &row.table;
            label = "";
            y += if y > TOP { GAP } else { 0.0 };
            y += LINE;
            text.push_str(&heading(table, y));
        }
        if row.label != label {
            label = &row.label;
            y += LINE;
            text.push_str(&plot.row(label, y));
        }
        text.push_str(&plot.dot(row, y));
    }
    text.push_str("</svg>\n");
    text
}

/// Where things are.
#[derive(Debug)]
struct Plot {
    connections: Vec<u32>,
    /// Powers of two that the axis ends at.
    low: i32,
    high: i32,
    height: f64,
}

impl Plot {
    fn of(results: &Results) -> Self {
        let mut connections: Vec<u32> = results.rows.iter().map(|row| row.connections).collect();
        connections.sort_unstable();
        connections.dedup();
        let powers = results.rows.iter().flat_map(|row| [row.ratio_min, row.ratio_max]).map(f64::log2);
        let (least, most) = powers.fold((0.0, 0.0), |(least, most): (f64, f64), power| (least.min(power), most.max(power)));
        let mut lines = 0.0;
        let (mut table, mut label) = ("", "");
        for row in &results.rows {
            if row.table != table {
                lines += LINE + if table.is_empty() { 0.0 } else { GAP };
                (table, label) = (&row.table, "");
            }
            if row.label != label {
                lines += LINE;
                label = &row.label;
            }
        }
        // One step of room, for the numbers beside the outermost dots; a ratio out of all proportion sits at the edge.
        let (low, high) = ((least.floor() as i32 - 1).max(-POWER_MAX), (most.ceil() as i32 + 1).min(POWER_MAX));
        Self { connections, low, high, height: TOP + lines + BOTTOM }
    }

    fn width(&self) -> f64 {
        (LABELS + self.connections.len() as f64 * (PANEL + BETWEEN)).max(WIDTH_MIN)
    }

    fn panel_x(&self, panel: usize) -> f64 {
        LABELS + panel as f64 * (PANEL + BETWEEN)
    }

    fn x(&self, panel: usize, ratio: f64) -> f64 {
        let share = (ratio.log2() - f64::from(self.low)) / f64::from(self.high - self.low);
        self.panel_x(panel) + share.clamp(0.0, 1.0) * PANEL
    }

    /// Title, panels, their axes and the line at 1.
    fn frame(&self, results: &Results) -> String {
        let (width, height) = (self.width(), self.height);
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
             height=\"{height:.0}\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"{INK}\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
             <text x=\"{MARGIN}\" y=\"26\" font-size=\"17\" font-weight=\"bold\">Processor time of Sluicegate, as a multiple of nginx’s for the same work</text>\n\
             <text x=\"{MARGIN}\" y=\"46\" fill=\"{FAINT}\">{}</text>\n",
            escaped(&subtitle(results))
        );
        text.push_str(&legend(66.0));
        let (top, bottom) = (TOP - 4.0, height - BOTTOM + 8.0);
        for (panel, connections) in self.connections.iter().enumerate() {
            let x = self.panel_x(panel);
            let plural = if *connections == 1 { "" } else { "s" };
            add(
                &mut text,
                format_args!(
                    "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{PANEL}\" height=\"{:.1}\" fill=\"{SHADE}\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-weight=\"bold\">{connections} connection{plural}</text>\n",
                    bottom - top,
                    x + PANEL / 2.0,
                    TOP - 14.0
                ),
            );
            for power in self.low..=self.high {
                let (x, one) = (self.x(panel, f64::from(power).exp2()), power == 0);
                let (colour, stroke) = if one { (INK, 1.5) } else { (GRID, 1.0) };
                add(
                    &mut text,
                    format_args!(
                        "<line x1=\"{x:.1}\" y1=\"{top:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"{colour}\" stroke-width=\"{stroke}\"/>\n\
                     <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"10\" fill=\"{FAINT}\">{}</text>\n",
                        bottom + 14.0,
                        power_name(power)
                    ),
                );
            }
        }
        text
    }

    fn row(&self, label: &str, y: f64) -> String {
        let mut text = format!("<text x=\"{:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{}</text>\n", LABELS - 14.0, escaped(label));
        for panel in 0..self.connections.len() {
            let (from, to, y) = (self.panel_x(panel), self.panel_x(panel) + PANEL, y - 4.0);
            add(
                &mut text,
                format_args!(
                    "<line x1=\"{from:.1}\" y1=\"{y:.1}\" x2=\"{to:.1}\" y2=\"{y:.1}\" stroke=\"{GRID}\" stroke-dasharray=\"1 3\"/>\n"
                ),
            );
        }
        text
    }

    fn dot(&self, row: &Measured, baseline: f64) -> String {
        let panel = self.connections.iter().position(|connections| *connections == row.connections).unwrap_or_default();
        let y = baseline - 4.0;
        let (x, from, to) = (self.x(panel, row.ratio), self.x(panel, row.ratio_min), self.x(panel, row.ratio_max));
        let floor = row.contender != OURS;
        let colour = colour_of(row, floor);
        let fill = if floor { "#ffffff" } else { colour };
        // Beside the dot on the side that leads away from the line, where there is room.
        let left = row.ratio < 1.0 && from - self.panel_x(panel) > NUMBER || self.panel_x(panel) + PANEL - to < NUMBER;
        let (number_x, anchor) = if left { (from.min(x - 5.0) - 4.0, "end") } else { (to.max(x + 5.0) + 4.0, "start") };
        let machine_x = self.x(panel, row.machine_ratio);
        let (above, below) = (y - 6.0, y + 6.0);
        format!(
            "<line x1=\"{machine_x:.1}\" y1=\"{above:.1}\" x2=\"{machine_x:.1}\" y2=\"{below:.1}\" stroke=\"{INK}\" stroke-width=\"2\"/>\n\
             <line x1=\"{from:.1}\" y1=\"{y:.1}\" x2=\"{to:.1}\" y2=\"{y:.1}\" stroke=\"{colour}\" stroke-width=\"3\" stroke-opacity=\"0.4\"/>\n\
             <circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\" fill=\"{fill}\" stroke=\"{colour}\" stroke-width=\"1.5\">\
             <title>{}, {} connections: {:.2}</title></circle>\n\
             <text x=\"{number_x:.1}\" y=\"{baseline:.1}\" text-anchor=\"{anchor}\" font-size=\"11\" fill=\"{colour}\">{:.2}</text>\n",
            escaped(&row.label),
            row.connections,
            row.ratio,
            row.ratio
        )
    }
}

fn heading(table: &str, y: f64) -> String {
    format!("<text x=\"{MARGIN}\" y=\"{y:.1}\" font-weight=\"bold\">{}</text>\n", escaped(table))
}

fn legend(y: f64) -> String {
    let mut text = String::new();
    let mut x = MARGIN + 6.0;
    // A tick, as every row has one.
    add(
        &mut text,
        format_args!(
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"{INK}\" stroke-width=\"2\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\">both processors together, whoever they work for (kernel and load included)</text>\n",
            y + 8.0,
            y + 20.0,
            x + 10.0,
            y + 18.0
        ),
    );
    for (fill, colour, meaning) in [
        (CHEAPER, CHEAPER, "we need less than nginx"),
        (EVEN, EVEN, "within 3 %"),
        (DEARER, DEARER, "we need more"),
        ("#ffffff", FAINT, "the floor beside nginx, not ours"),
    ] {
        add(
            &mut text,
            format_args!(
                "<circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"4.5\" fill=\"{fill}\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\n\
             <text x=\"{:.1}\" y=\"{y:.1}\">{meaning}</text>\n",
                y - 4.0,
                x + 10.0
            ),
        );
        x += 38.0 + 6.6 * meaning.chars().count() as f64;
    }
    text
}

fn subtitle(results: &Results) -> String {
    // Processor, kernel and the two servers' versions come first.
    results.head.iter().take(4).cloned().collect::<Vec<_>>().join(" · ")
}

fn colour_of(row: &Measured, floor: bool) -> &'static str {
    match row.ratio {
        _ if floor => FAINT,
        ratio if (1.0 / EVEN_MAX..=EVEN_MAX).contains(&ratio) => EVEN,
        ratio if ratio < 1.0 => CHEAPER,
        _ => DEARER,
    }
}

fn power_name(power: i32) -> String {
    match power {
        power if power >= 0 => (1_u64 << power).to_string(),
        -1 => "½".to_owned(),
        -2 => "¼".to_owned(),
        -3 => "⅛".to_owned(),
        power => format!("1/{}", 1_u64 << -power),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn add(text: &mut String, piece: std::fmt::Arguments<'_>) {
    // Writing to a String can't fail.
    let _ = text.write_fmt(piece);
}

const OURS: &str = "sluicegate";
/// Closer than this isn't told apart from nginx's, by rounds that differ as much.
const EVEN_MAX: f64 = 1.03;
/// A ratio of 32 is off any useful scale.
const POWER_MAX: i32 = 5;

// Lengths in pixels.
const MARGIN: f64 = 20.0;
const LABELS: f64 = 300.0;
const PANEL: f64 = 215.0;
const BETWEEN: f64 = 24.0;
const TOP: f64 = 136.0;
/// What title and legend take.
const WIDTH_MIN: f64 = 720.0;
const BOTTOM: f64 = 36.0;
const LINE: f64 = 19.0;
const GAP: f64 = 8.0;
/// What a number beside a dot takes.
const NUMBER: f64 = 36.0;

const INK: &str = "#22272e";
const FAINT: &str = "#68707a";
const GRID: &str = "#d5dae0";
const SHADE: &str = "#f6f8fa";
const CHEAPER: &str = "#0b6fb8";
const EVEN: &str = "#7a7f87";
const DEARER: &str = "#c8500a";
