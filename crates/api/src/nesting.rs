//! Texts that are nested too deep to be read in time.

/// Brackets open at once. A parser of YAML looks at every one of them at every word, so that megabytes of them would take hours before they are
/// refused: it takes 128. Those within texts are counted too, where they may be without their other half.
pub const MOST_OPEN: usize = 1_000;

/// The line in which too many brackets are open.
#[must_use]
pub fn too_deep(text: &[u8]) -> Option<usize> {
    let (mut open, mut line) = (0_usize, 1);
    for byte in text {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            b'\n' => line += 1,
            _ => {}
        }
        if open > MOST_OPEN {
            return Some(line);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_are_counted_while_they_are_open() {
        assert_eq!(too_deep("[{}]".repeat(10_000).as_bytes()), None);
        assert_eq!(too_deep("\n[".repeat(1_000).as_bytes()), None);
        assert_eq!(too_deep("\n[".repeat(1_001).as_bytes()), Some(1_002));
    }
}
