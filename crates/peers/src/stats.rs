//! Percentiles, medians, and how they are shown.

/// The value below which `percent` of the sorted values lie (nearest rank).
pub(crate) fn percentile<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// The middle one; of an even number the mean of both.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The median, and the smallest and the largest when there are several; `-` for none.
pub(crate) fn spread(values: &[f64], show: impl Fn(f64) -> String) -> String {
    let Some(middle) = median(values) else { return "-".to_owned() };
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if values.len() == 1 {
        return show(middle);
    }
    format!("{} ({}–{})", show(middle), show(least), show(most))
}

/// Microseconds as milliseconds, three digits that count.
pub(crate) fn millis(us: f64) -> String {
    match us / 1e3 {
        ms if ms >= 100.0 => format!("{ms:.0}"),
        ms if ms >= 10.0 => format!("{ms:.1}"),
        ms => format!("{ms:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<u32> = (1..=10).collect();
        let at = |percent| percentile(&values, percent);
        assert_eq!([at(0), at(50), at(99), at(100)], [Some(1), Some(5), Some(10), Some(10)]);
        assert_eq!(percentile::<u32>(&[], 50), None);
    }

    #[test]
    fn medians_come_with_what_was_around_them() {
        let whole = |value: f64| format!("{value:.0}");
        for (values, median_is, shown) in [
            (vec![], None, "-"),
            (vec![7.0], Some(7.0), "7"),
            (vec![9.0, 1.0, 5.0], Some(5.0), "5 (1–9)"),
            (vec![4.0, 1.0, 2.0, 9.0], Some(3.0), "3 (1–9)"),
        ] {
            assert_eq!(median(&values), median_is, "{values:?}");
            assert_eq!(spread(&values, whole), shown);
        }
    }

    #[test]
    fn milliseconds_have_the_digits_that_count() {
        assert_eq!([1_234.0, 12_345.0, 123_456.0].map(millis), ["1.23", "12.3", "123"]);
    }
}
