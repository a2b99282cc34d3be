//! Redis's patterns for keys: `*` any bytes, `?` any byte, `[abc]`, `[a-z]`, `[^abc]` one byte of a set, `\x`
//! the byte x itself.
//!
//! Only the last star is ever taken back: whatever an earlier one could match, the later one can too. So
//! matching takes at most pattern × text steps, not exponentially many.

/// Whether `pattern` describes all of `text`.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    matches_counting(pattern, text).0
}

/// The result, and how many elements of the pattern were tried.
fn matches_counting(pattern: &[u8], text: &[u8]) -> (bool, u64) {
    let mut steps = 0;
    let (mut at_pattern, mut at_text) = (0, 0);
    // The place behind the last star, and where the text it has not swallowed yet begins.
    let mut star: Option<(usize, usize)> = None;
    loop {
        steps += 1;
        if pattern.get(at_pattern) == Some(&b'*') {
            at_pattern += 1;
            if at_pattern == pattern.len() {
                return (true, steps);
            }
            star = Some((at_pattern, at_text));
            continue;
        }
        match (at_pattern < pattern.len(), text.get(at_text)) {
            (false, None) => return (true, steps),
            (true, Some(&byte)) => {
                let (fits, len) = element(&pattern[at_pattern..], byte);
                if fits {
                    at_pattern += len;
                    at_text += 1;
                    continue;
                }
            }
            // The text is used up; a star that swallows more of it does not help.
            (true, None) => return (false, steps),
            (false, Some(_)) => {}
        }
        match &mut star {
            None => return (false, steps),
            Some((behind, swallowed)) => {
                *swallowed += 1;
                (at_pattern, at_text) = (*behind, *swallowed);
            }
        }
    }
}

/// Whether `byte` fits the first element of `pattern`, which is not a star, and how long that element is.
fn element(pattern: &[u8], byte: u8) -> (bool, usize) {
    match pattern {
        [b'?', ..] => (true, 1),
        [b'\\', literal, ..] => (*literal == byte, 2),
        [b'[', set @ ..] => {
            let (fits, len) = set_element(set, byte);
            (fits, 1 + len)
        }
        [literal, ..] => (*literal == byte, 1),
        [] => (false, 0),
    }
}

/// The same for what follows a `[`. As in Redis a set that is never closed reaches to the end, a range may
/// be written backwards, and a `]` at once closes an empty set.
fn set_element(set: &[u8], byte: u8) -> (bool, usize) {
    let negated = set.first() == Some(&b'^');
    let mut at = negated as usize;
    let mut fits = false;
    loop {
        match &set[at..] {
            [] => break,
            [b']', ..] => {
                at += 1;
                break;
            }
            [b'\\', literal, ..] => {
                fits |= *literal == byte;
                at += 2;
            }
            [first, b'-', last, ..] => {
                fits |= (*first.min(last)..=*first.max(last)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                fits |= *literal == byte;
                at += 1;
            }
        }
    }
    (fits != negated, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_mean_what_they_mean_in_redis() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("***", "abc", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("*b", "abc", false),
            ("a*c*e", "abcde", true),
            ("a*c*f", "abcde", false),
            ("?", "", false),
            ("h?llo", "hello", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h[a-c]llo", "hdllo", false),
            ("[a-]", "_", true),
            ("[]", "a", false),
            ("[^]", "a", true),
            ("[]a]", "a]", false),
            ("[abc", "c", true),
            ("[abc", "d", false),
            ("[a\\]]", "]", true),
            ("[\\", "\\", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\", "a\\", true),
            ("\\a", "a", true),
            ("*[0-9]?", "key:17", true),
            ("*[0-9]?", "key:1x7y", true),
            ("*\\[x\\]", "a[x]", true),
            ("[-x]", "-", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern:?} on {text:?}");
        }
        assert!(matches(b"*\xff?", b"\x00\xff\x01"));
    }

    #[test]
    fn many_stars_take_no_more_steps_than_pattern_times_text() {
        let text = [b'a'; 2_000];
        for stars in [1, 4, 16, 64] {
            let pattern = [b"*a".repeat(stars), b"*b".to_vec()].concat();
            let (fits, steps) = matches_counting(&pattern, &text);
            assert!(!fits);
            assert!(steps <= (pattern.len() * text.len()) as u64, "{steps} steps with {stars} stars");
        }
        let (fits, steps) = matches_counting(b"*a*a*a*a*b", &[b'a'; 10_000]);
        assert!(!fits && steps < 50_000, "{steps} steps");
    }

    /// All ways a star can match, tried one after another.
    fn matches_naively(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.first(), text.first()) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some(b'*'), _) => (0..=text.len()).any(|from| matches_naively(&pattern[1..], &text[from..])),
            (Some(_), None) => false,
            (Some(_), Some(&byte)) => {
                let (fits, len) = element(pattern, byte);
                fits && matches_naively(&pattern[len..], &text[1..])
            }
        }
    }

    #[test]
    fn taking_back_only_the_last_star_loses_nothing() {
        let mut random = 0x2545_F491_4F6C_DD1Du64;
        let mut draw = |alphabet: &[u8], len: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (0..(random >> 32) % (len + 1))
                .map(|i| alphabet[(random >> (i * 5 % 59)) as usize % alphabet.len()])
                .collect::<Vec<u8>>()
        };
        let mut matched = 0;
        for _ in 0..50_000 {
            let pattern = draw(b"ab*?*[]a-^\\", 9);
            let text = draw(b"ab]", 8);
            let expected = matches_naively(&pattern, &text);
            matched += expected as u32;
            assert_eq!(matches(&pattern, &text), expected, "{:?}", (pattern.escape_ascii(), text.escape_ascii()));
        }
        assert!(matched > 1_000);
    }
}
