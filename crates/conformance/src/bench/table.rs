//! Medians side by side.

use std::fmt::{self, Display, Formatter};

use super::servers::Subject;

/// Rows in the order in which they came first.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: &'static str,
    more_is_better: bool,
    zookeeper: Vec<f64>,
    keeper: Vec<f64>,
}

impl Table {
    pub(super) fn add(&mut self, name: &'static str, subject: Subject, value: f64, more_is_better: bool) {
        let index = self.rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            self.rows.push(Row { name, more_is_better, zookeeper: Vec::new(), keeper: Vec::new() });
            self.rows.len() - 1
        });
        let row = &mut self.rows[index];
        match subject {
            Subject::ZooKeeper => row.zookeeper.push(value),
            Subject::Keeper => row.keeper.push(value),
        }
    }
}

/// As many digits as say something.
fn short(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

/// The middle value; the mean of the two in the middle of an even number.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some((lower + upper) / 2.0)
}

impl Display for Table {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "{:<40} {:>12} {:>12} {:>8}  values of the rounds",
            "median", "ZooKeeper", "keeper", "ratio"
        )?;
        for row in &self.rows {
            let show = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), short);
            let (zookeeper, keeper) = (median(&row.zookeeper), median(&row.keeper));
            let ratio = zookeeper.zip(keeper).map(|(zookeeper, keeper)| keeper / zookeeper);
            let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
            let all = |values: &[f64]| values.iter().map(|value| short(*value)).collect::<Vec<_>>().join(" ");
            let direction = if row.more_is_better { "more is better" } else { "less is better" };
            writeln!(
                formatter,
                "{:<40} {:>12} {:>12} {ratio:>8}  [{}] [{}], {direction}",
                row.name,
                show(zookeeper),
                show(keeper),
                all(&row.zookeeper),
                all(&row.keeper),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
    }
}
