//! One number, and what it was held to.

use serde::Serialize;

/// One number, as `target/bench/scale.json` lists it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// What.
    pub name: &'static str,
    /// In what.
    pub unit: &'static str,
    /// How much.
    pub value: f64,
    /// No more than this is the aim; none where nothing was promised.
    pub aim: Option<f64>,
    /// Whether it is met; none without one.
    pub met: Option<bool>,
}

impl Record {
    pub(super) fn new(name: &'static str, unit: &'static str, value: f64) -> Self {
        Self {
            name,
            unit,
            value,
            aim: None,
            met: None,
        }
    }

    pub(super) fn aim(self, aim: f64) -> Self {
        Self {
            aim: Some(aim),
            met: Some(self.value <= aim),
            ..self
        }
    }
}

/// The value that this share of all is not above; of none, not a number.
pub(super) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    // Lengths and places of some thousands fit.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    let place = (share * values.len() as f64).ceil() as usize;
    let value = values.get(place.clamp(1, values.len().max(1)) - 1);
    value.copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(quantile(&values, 0.5), 100.0);
        assert_eq!(quantile(&values, 0.99), 198.0);
        assert_eq!(quantile(&values, 1.0), 200.0);
        assert_eq!(quantile(&[3.0], 0.5), 3.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn an_aim_is_met_up_to_it() {
        assert_eq!(Record::new("x", "s", 1.0).aim(1.0).met, Some(true));
        assert_eq!(Record::new("x", "s", 1.1).aim(1.0).met, Some(false));
        assert_eq!(Record::new("x", "s", f64::NAN).aim(1.0).met, Some(false));
        assert_eq!(Record::new("x", "s", 1.0).met, None);
    }
}
