//! The table that the bench prints: rows with their baseline, their bar, and how much the rounds differed.

use serde_json::json;

/// What a row has to reach, and in which direction it goes on from there.
#[derive(Clone, Copy)]
pub(crate) enum Bar {
    AtLeast(f64),
    AtMost(f64),
    /// Printed for comparison only.
    None,
}

/// One line: a figure over rounds, with or without something beside it.
pub(crate) struct Row {
    pub name: String,
    pub unit: &'static str,
    /// Our figure in each round.
    pub ours: Vec<f64>,
    /// What it is compared with, and that figure in the same rounds.
    pub base: Option<(&'static str, Vec<f64>)>,
    /// Of the ratio where there is a baseline, else of the figure.
    pub bar: Bar,
    /// Processor time of the server per operation, in microseconds.
    pub server: Option<f64>,
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

impl Row {
    /// What is held against the bar, in each round: ours over the baseline's, or ours.
    fn judged(&self) -> Vec<f64> {
        match &self.base {
            Some((_, base)) => self.ours.iter().zip(base).map(|(ours, base)| ours / base).collect(),
            None => self.ours.clone(),
        }
    }

    pub(crate) fn passes(&self) -> Option<bool> {
        let figure = median(&self.judged());
        match self.bar {
            Bar::AtLeast(bar) => Some(figure >= bar),
            Bar::AtMost(bar) => Some(figure <= bar),
            Bar::None => None,
        }
    }

    fn verdict(&self) -> &'static str {
        match self.passes() {
            Some(true) => "pass",
            Some(false) => "MISS",
            None => "",
        }
    }

    fn bar(&self) -> String {
        match self.bar {
            Bar::AtLeast(bar) => format!(">= {}", short(bar)),
            Bar::AtMost(bar) => format!("<= {}", short(bar)),
            Bar::None => String::new(),
        }
    }

    fn spread(&self) -> (f64, f64) {
        let judged = self.judged();
        let least = judged.iter().copied().fold(f64::INFINITY, f64::min);
        (least, judged.iter().copied().fold(f64::NEG_INFINITY, f64::max))
    }

    /// The line as text, in the columns of [`HEADING`].
    pub(crate) fn text(&self) -> String {
        let ours = format!("{} {}", short(median(&self.ours)), self.unit);
        let base = self.base.as_ref().map_or_else(String::new, |(name, figures)| {
            format!("{} {name}", short(median(figures)))
        });
        let (least, most) = self.spread();
        let ratio = match &self.base {
            Some(_) => format!("{} x", short(median(&self.judged()))),
            None => String::new(),
        };
        let spread = format!("{}..{}", short(least), short(most));
        let server = self.server.map_or_else(String::new, |us| format!("{} us", short(us)));
        format!(
            "{:<38} {ours:>15} {base:>17} {ratio:>8} {spread:>13} {:>9} {:<4} {server:>9}",
            self.name,
            self.bar(),
            self.verdict(),
        )
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        let (least, most) = self.spread();
        let base =
            self.base.as_ref().map(|(name, figures)| json!({"name": name, "figures": figures}));
        json!({
            "row": self.name, "unit": self.unit, "figures": self.ours, "baseline": base,
            "judged": median(&self.judged()), "least": least, "most": most,
            "bar": self.bar(), "pass": self.passes(), "server_us_per_op": self.server,
        })
    }
}

/// The names of the columns of [`Row::text`]. The spread is of the ratio, over the rounds.
pub(crate) fn heading() -> String {
    format!(
        "{:<38} {:>15} {:>17} {:>8} {:>13} {:>9} {:<4} {:>9}",
        "row", "tsfs", "baseline", "ratio", "spread", "bar", "", "server/op"
    )
}

/// Three significant digits, as a person writes them.
fn short(figure: f64) -> String {
    match figure.abs() {
        size if !size.is_finite() => "-".to_owned(),
        size if size >= 100.0 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}
