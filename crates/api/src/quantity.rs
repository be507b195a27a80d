//! Amounts as Kubernetes writes them, such as `50Mi` or `250m`.

use serde_json::Value;

/// Suffixes and what each stands for: binary, then decimal. `E` is one where digits alone stand before it, else it is an exponent.
const SUFFIXES: [(&str, f64); 16] = [
    ("Ki", 1_024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
    ("", 1.0),
];

/// What a quantity amounts to; `None` for what is none, and below zero.
#[must_use]
pub fn amount(text: &str) -> Option<f64> {
    let mut readings = SUFFIXES
        .iter()
        .filter_map(|(suffix, unit)| Some(number(text.strip_suffix(suffix)?)? * unit));
    readings.next().filter(|amount| amount.is_finite())
}

/// The same in whole units, as Kubernetes rounds it: up.
#[must_use]
pub fn whole(text: &str) -> Option<u64> {
    amount(text).map(|amount| amount.ceil() as u64)
}

/// The same in thousandths, as processors are counted.
#[must_use]
pub fn thousandths(text: &str) -> Option<u64> {
    amount(text).map(|amount| (amount * 1e3).ceil() as u64)
}

/// Whether a quantity, as it was sent, is one, and above zero.
pub(crate) fn is_positive(quantity: &Value) -> bool {
    match quantity {
        Value::Number(number) => number.as_f64().is_some_and(|number| number > 0.0),
        Value::String(text) => amount(text).is_some_and(|amount| amount > 0.0),
        _ => false,
    }
}

/// A quantity as text, whether a number was sent or a string.
pub(crate) fn text(quantity: &Value) -> Option<String> {
    match quantity {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        _ => None,
    }
}

/// Digits, perhaps with a plus, a point and an exponent.
fn number(text: &str) -> Option<f64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_one = is_number(exponent) && is_number(&digits.replacen('.', "", 1));
    is_one.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_are_those_of_kubernetes() {
        for good in [
            "1", "50Mi", "0.5Gi", "1e3", "1E6", "12E", "+3k", "100m", ".5", "5.", "1e-3",
        ] {
            assert!(is_positive(&json!(good)), "{good}");
        }
        for bad in [
            "", "0", "0Gi", "-1Gi", "0.0", "Gi", "50 Mi", "50MB", "1.2.3", "e3", "0e5", "1e", ".",
            "inf", "NaN", "1e999",
        ] {
            assert!(!is_positive(&json!(bad)), "{bad}");
        }
        assert!(is_positive(&json!(1)) && !is_positive(&json!(0)) && !is_positive(&json!(-2.5)));
    }

    #[test]
    fn amounts_are_counted_in_whole_units_and_thousandths() {
        assert_eq!(whole("50Mi"), Some(50 << 20));
        assert_eq!(whole("1G"), Some(1_000_000_000));
        assert_eq!(whole("1e9"), Some(1_000_000_000));
        assert_eq!(whole("0.5Gi"), Some(512 << 20));
        assert_eq!(whole("1024"), Some(1_024));
        assert_eq!(whole("100m"), Some(1));
        assert_eq!(whole("0"), Some(0));
        assert_eq!(whole("much"), None);
        assert_eq!(thousandths("250m"), Some(250));
        assert_eq!(thousandths("1.5"), Some(1_500));
        assert_eq!(thousandths("2"), Some(2_000));
        assert_eq!(thousandths("0.0001"), Some(1));
    }
}
