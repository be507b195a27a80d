//! Amounts such as `50Mi`.

use serde_json::Value;

/// Suffixes of Kubernetes' quantities: binary, then decimal.
const SUFFIXES: [&str; 16] = [
    "Ki", "Mi", "Gi", "Ti", "Pi", "Ei", "n", "u", "m", "k", "M", "G", "T", "P", "E", "",
];

/// Whether a quantity is one, and above zero.
pub(super) fn is_positive(quantity: &Value) -> bool {
    match quantity {
        Value::Number(number) => number.as_f64().is_some_and(|number| number > 0.0),
        Value::String(text) => SUFFIXES.iter().any(|suffix| {
            let number = text.strip_suffix(suffix);
            number.is_some_and(is_positive_number)
        }),
        _ => false,
    }
}

/// Digits, perhaps with a sign, a point and, without a suffix, an exponent; some digit is not zero.
fn is_positive_number(text: &str) -> bool {
    let text = text.strip_prefix('+').unwrap_or(text);
    let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    is_number(exponent)
        && is_number(&digits.replacen('.', "", 1))
        && digits.bytes().any(|byte| matches!(byte, b'1'..=b'9'))
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
        ] {
            assert!(!is_positive(&json!(bad)), "{bad}");
        }
        assert!(is_positive(&json!(1)) && !is_positive(&json!(0)) && !is_positive(&json!(-2.5)));
    }
}
