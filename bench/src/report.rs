//! Figures with their spread, and the table.

use std::fmt;

/// What several runs gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spread(Vec<f64>);

impl Spread {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// The middle; that of the two middle ones is their mean.
    pub(crate) fn median(&self) -> f64 {
        let (half, even) = (self.0.len() / 2, self.0.len().is_multiple_of(2));
        match self.0.get(half) {
            None => f64::NAN,
            Some(value) if even => f64::midpoint(*value, self.0[half - 1]),
            Some(value) => *value,
        }
    }

    /// The value that this share of all values does not exceed.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil().max(1.0) as usize;
        self.0.get(rank - 1).or_else(|| self.0.last()).copied().unwrap_or(f64::NAN)
    }
}

impl FromIterator<f64> for Spread {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(least), Some(most)) = (self.0.first(), self.0.last()) else { return f.write_str("–") };
        write!(f, "{} [{}–{}]", number(self.median()), number(*least), number(*most))
    }
}

/// As many digits as say something.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => {
            let digits = format!("{value:.0}");
            let (thousands, rest) = digits.split_at(digits.len() - 3);
            format!("{thousands},{rest}")
        }
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// What a figure is to come to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Aim {
    AtLeast(f64),
    AtMost(f64),
    /// Only to be told.
    Report,
}

impl Aim {
    fn verdict(self, value: f64) -> &'static str {
        match self {
            Self::AtLeast(least) if value >= least => "met",
            Self::AtMost(most) if value <= most => "met",
            Self::AtLeast(_) | Self::AtMost(_) => "missed",
            Self::Report => "",
        }
    }
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least}"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
            Self::Report => Ok(()),
        }
    }
}

/// A line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    figure: String,
    side: String,
    value: Spread,
    unit: &'static str,
    /// By what it is compared with, round by round.
    ratio: Option<Spread>,
    aim: Aim,
}

impl Row {
    /// A figure by itself, which an aim may be for.
    pub(crate) fn value(figure: &str, side: &str, value: Spread, unit: &'static str, aim: Aim) -> Self {
        Self { figure: figure.to_owned(), side: side.to_owned(), value, unit, ratio: None, aim }
    }

    /// A figure of others, and ours by theirs, which the aim is for.
    pub(crate) fn beside(figure: &str, side: &str, ours: &[f64], theirs: &[f64], unit: &'static str, aim: Aim) -> Self {
        Self { value: theirs.iter().copied().collect(), ..Self::by(figure, side, ours, theirs, unit, aim) }
    }

    /// A figure, and the same by what it is in another case, which the aim is for.
    pub(crate) fn by(figure: &str, side: &str, here: &[f64], there: &[f64], unit: &'static str, aim: Aim) -> Self {
        let ratio = here.iter().zip(there).map(|(here, there)| here / there).collect();
        let value = here.iter().copied().collect();
        Self { figure: figure.to_owned(), side: side.to_owned(), value, unit, ratio: Some(ratio), aim }
    }
}

/// Everything measured, as Markdown.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    pub(crate) fn add(&mut self, rows: Vec<Row>) {
        self.0.extend(rows);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| figure | side | median [min–max] | ratio | aim | |\n|---|---|---|---|---|---|")?;
        for Row { figure, side, value, unit, ratio, aim } in &self.0 {
            let told = ratio.as_ref().map(ToString::to_string).unwrap_or_default();
            let verdict = aim.verdict(ratio.as_ref().unwrap_or(value).median());
            let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
            writeln!(f, "| {figure} | {side} | {value}{unit} | {told} | {aim} | {verdict} |")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_its_middle_and_its_ends() {
        let spread: Spread = [3.0, 1.0, 2.0].into_iter().collect();
        assert_eq!(spread.to_string(), "2.00 [1.00–3.00]");
        let even: Spread = [1000.0, 12.34, 4567.8, 123.4].into_iter().collect();
        assert_eq!(even.to_string(), "562 [12.3–4,568]");
        assert_eq!((even.quantile(0.5), even.quantile(0.99)), (123.4, 4567.8));
        assert_eq!(Spread::default().to_string(), "–");
    }

    #[test]
    fn the_table_says_whether_an_aim_was_met() {
        let mut table = Table::default();
        table.add(vec![
            Row::beside("steps", "them", &[20.0, 30.0], &[10.0, 10.0], "/s", Aim::AtLeast(2.0)),
            Row::value("memory", "rekey", [41.0].into_iter().collect(), "MiB", Aim::AtMost(40.0)),
            Row::value("memory", "them", [70.0].into_iter().collect(), "MiB", Aim::Report),
        ]);
        let lines: Vec<String> = table.to_string().lines().skip(2).map(ToOwned::to_owned).collect();
        assert_eq!(
            lines,
            [
                "| steps | them | 10.0 [10.0–10.0] /s | 2.50 [2.00–3.00] | ≥ 2 | met |",
                "| memory | rekey | 41.0 [41.0–41.0] MiB |  | ≤ 40 | missed |",
                "| memory | them | 70.0 [70.0–70.0] MiB |  |  |  |",
            ]
        );
    }
}
