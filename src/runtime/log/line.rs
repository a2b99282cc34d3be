//! One line of the log, for people or as JSON. What comes from clients ends no line and steers no terminal.

use std::fmt::{self, Write};

use tracing::Level;
use tracing::field::{Field, Visit};

use crate::limits::LOG_LINE_BYTES_MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    pub json: bool,
    pub colour: bool,
}

/// What is said, before it has a form.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    pub level: Level,
    pub message: String,
    pub fields: Vec<(&'static str, Value)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    /// A number or a truth value: the same in both forms.
    Plain(String),
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::Text(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::Text(value.to_owned()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::Plain(value.to_string()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::Plain(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::Plain(value.to_string()));
    }
}

impl Said {
    pub fn new(level: Level, message: impl Into<String>) -> Said {
        Said { level, message: message.into(), fields: Vec::new() }
    }

    fn put(&mut self, field: &Field, value: Value) {
        match value {
            Value::Text(text) if field.name() == "message" => self.message = text,
            value => self.fields.push((field.name(), value)),
        }
    }

    /// The line with its end; `held_back` others like it were not written.
    pub fn line(&self, style: Style, unix_us: u64, held_back: u64) -> String {
        if style.json { self.json(unix_us, held_back) } else { self.human(style.colour, unix_us, held_back) }
    }

    fn json(&self, unix_us: u64, held_back: u64) -> String {
        let mut line = format!("{{\"timestamp\":\"{}\",\"level\":\"{}\",\"message\":", Time(unix_us), self.level);
        push_quoted(&mut line, cut(&self.message));
        for (name, value) in &self.fields {
            let _ = write!(line, ",\"{name}\":");
            match value {
                Value::Text(text) => push_quoted(&mut line, cut(text)),
                Value::Plain(text) => line.push_str(text),
            }
        }
        if held_back > 0 {
            let _ = write!(line, ",\"held_back\":{held_back}");
        }
        line + "}\n"
    }

    fn human(&self, colour: bool, unix_us: u64, held_back: u64) -> String {
        let level = format!("{:>5}", self.level.as_str());
        let mut line = match colour {
            false => format!("{} {level} ", Time(unix_us)),
            true => {
                let code = match self.level {
                    Level::ERROR => 31,
                    Level::WARN => 33,
                    Level::INFO => 32,
                    Level::DEBUG => 34,
                    Level::TRACE => 35,
                };
                format!("\x1b[2m{}\x1b[0m \x1b[{code}m{level}\x1b[0m ", Time(unix_us))
            }
        };
        push_visible(&mut line, cut(&self.message));
        for (name, value) in &self.fields {
            let (Value::Text(text) | Value::Plain(text)) = value;
            let _ = write!(line, " {name}=");
            push_visible(&mut line, cut(text));
        }
        if held_back > 0 {
            let _ = write!(line, " ({held_back} more like this were held back)");
        }
        line + "\n"
    }
}

/// The beginning of what is too long.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(LOG_LINE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Characters that end lines, steer terminals or turn the direction of writing.
fn is_unfit(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn push_visible(line: &mut String, text: &str) {
    for character in text.chars() {
        if is_unfit(character) {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
}

fn push_quoted(line: &mut String, text: &str) {
    line.push('"');
    for character in text.chars() {
        match character {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            character if is_unfit(character) => {
                let _ = write!(line, "\\u{:04x}", character as u32);
            }
            character => line.push(character),
        }
    }
    line.push('"');
}

/// `2026-11-21T12:37:07.682952Z`
struct Time(u64);

impl fmt::Display for Time {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, us) = (self.0 / 1_000_000, self.0 % 1_000_000);
        let (days, second) = ((seconds / 86_400) as i64, seconds % 86_400);
        // The calendar of 400 years, begun in March so that the day that is sometimes there comes last
        // (Howard Hinnant, "chrono-compatible low-level date algorithms").
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{us:06}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: Style = Style { json: true, colour: false };
    const HUMAN: Style = Style { json: false, colour: false };

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (951_868_799, "2000-02-29T23:59:59.000000Z"),
            (1_709_251_200, "2024-03-01T00:00:00.000000Z"),
            (4_102_444_799, "2099-12-31T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(Time(seconds * 1_000_000).to_string(), text);
        }
        assert_eq!(Time(1_500_042).to_string(), "1970-01-01T00:00:01.500042Z");
    }

    #[test]
    fn lines_look_as_they_are_asked_for() {
        let said = Said {
            fields: vec![("error", Value::Text("no \"luck\"".into())), ("core", Value::Plain("3".into()))],
            ..Said::new(Level::WARN, "trouble")
        };
        let json = said.line(JSON, 0, 0);
        assert_eq!(
            json,
            "{\"timestamp\":\"1970-01-01T00:00:00.000000Z\",\"level\":\"WARN\",\"message\":\"trouble\",\
             \"error\":\"no \\\"luck\\\"\",\"core\":3}\n"
        );
        assert_eq!(said.line(HUMAN, 0, 0), "1970-01-01T00:00:00.000000Z  WARN trouble error=no \"luck\" core=3\n");
        let coloured = Said::new(Level::INFO, "ready").line(Style { json: false, colour: true }, 0, 0);
        assert_eq!(coloured, "\x1b[2m1970-01-01T00:00:00.000000Z\x1b[0m \x1b[32m INFO\x1b[0m ready\n");
    }

    #[test]
    fn what_was_held_back_is_counted() {
        let said = Said::new(Level::INFO, "again");
        assert!(said.line(JSON, 0, 7).ends_with("\"message\":\"again\",\"held_back\":7}\n"));
        assert!(said.line(HUMAN, 0, 7).ends_with(" INFO again (7 more like this were held back)\n"));
    }

    #[test]
    fn nothing_ends_a_line_or_steers_a_terminal() {
        let said = Said::new(Level::INFO, "a\nb\r\x1b[31m\u{9b}\u{202e}\u{7f}\0é🦀");
        let human = said.line(HUMAN, 0, 0);
        assert!(human.ends_with("a\\nb\\r\\u{1b}[31m\\u{9b}\\u{202e}\\u{7f}\\u{0}é🦀\n"), "{human}");
        let json = said.line(JSON, 0, 0);
        assert_eq!(json.matches('\n').count(), 1);
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read["message"], said.message.as_str(), "nothing is lost for machines");
        let long = Said::new(Level::INFO, "é".repeat(LOG_LINE_BYTES_MAX));
        assert!(long.line(HUMAN, 0, 0).len() < LOG_LINE_BYTES_MAX + 100);
    }
}
