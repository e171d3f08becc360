//! Text inside CLIXML: `_xHHHH_` for UTF-16 units that XML cannot carry (MS-PSRP 2.2.5.3.2), dates and durations.

use std::borrow::Cow;
use std::fmt::Write;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Timelike};

use super::Value;

/// Escapes text for CLIXML and for XML: control characters, surrogate pairs, `_x` itself, markup.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + text.len() / 8);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '_' if matches!(rest.peek(), Some('x' | 'X')) => escaped.push_str("_x005F_"),
            c if c.is_control() || c > '\u{FFFD}' => push_units(&mut escaped, c),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Undoes `_xHHHH_`; XML's own escapes are undone already. A surrogate without its other half becomes U+FFFD.
pub(super) fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains("_x") && !text.contains("_X") {
        return Cow::Borrowed(text);
    }
    let mut units = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('_') {
        let (before, from) = rest.split_at(at);
        units.extend(before.encode_utf16());
        let (unit, length) = escaped_unit(from).unwrap_or((UNDERSCORE, 1));
        units.push(unit);
        rest = &from[length..];
    }
    units.extend(rest.encode_utf16());
    Cow::Owned(String::from_utf16_lossy(&units))
}

/// ISO 8601 as .NET writes it: up to seven decimals, then `Z`, an offset or nothing.
pub(super) fn read_date_time(text: &str) -> Option<Value> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return at.with_nanosecond(whole_ticks(at.nanosecond())?).map(Value::DateTime);
    }
    let at = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").ok()?;
    at.with_nanosecond(whole_ticks(at.nanosecond())?).map(Value::NaiveDateTime)
}

/// The moment without its zone, to a tenth of a microsecond.
pub(super) fn naive_date_time(at: &NaiveDateTime) -> String {
    let mut text = at.format("%Y-%m-%dT%H:%M:%S").to_string();
    push_fraction(&mut text, at.nanosecond());
    text
}

/// The moment with its zone; `Z` for UTC.
pub(super) fn date_time<Tz: chrono::TimeZone<Offset = chrono::FixedOffset>>(at: &DateTime<Tz>) -> String {
    let zone = match at.offset().local_minus_utc() {
        0 => "Z".to_owned(),
        _ => at.offset().to_string(),
    };
    naive_date_time(&at.naive_local()) + &zone
}

/// xs:duration of days, hours, minutes and seconds, which is what a TimeSpan can be.
pub(super) fn read_duration(text: &str) -> Option<TimeDelta> {
    let (text, is_negative) = text.strip_prefix('-').map_or((text, false), |rest| (rest, true));
    let text = text.strip_prefix('P')?;
    let (days, time) = text.split_once('T').map_or((text, None), |(days, time)| (days, Some(time)));
    if text.is_empty() || time == Some("") {
        return None;
    }
    let (days, rest) = part(days, 'D')?;
    let (hours, time) = part(time.unwrap_or_default(), 'H')?;
    let (minutes, seconds) = part(time, 'M')?;
    let (seconds, nanos) = read_seconds(seconds)?;
    let total = days.checked_mul(24)?.checked_add(hours)?.checked_mul(60)?.checked_add(minutes)?.checked_mul(60)?;
    let span = TimeDelta::new(total.checked_add(seconds)?, nanos).filter(|_| rest.is_empty())?;
    Some(if is_negative { -span } else { span })
}

/// As .NET writes a TimeSpan: `P1DT2H3M4.5S`, `PT0S`.
pub(super) fn duration(span: TimeDelta) -> String {
    let sign = if span < TimeDelta::zero() { "-" } else { "" };
    let span = span.abs();
    let nanos = span.subsec_nanos().unsigned_abs();
    let (days, seconds) = (span.num_days(), span.num_seconds() % 86400);
    let mut text = format!("{sign}P");
    if days > 0 {
        push(&mut text, format_args!("{days}D"));
    }
    if seconds == 0 && nanos / 100 == 0 {
        text.push_str(if days > 0 { "" } else { "T0S" });
        return text;
    }
    text.push('T');
    for (count, unit) in [(seconds / 3600, 'H'), (seconds / 60 % 60, 'M')] {
        if count > 0 {
            push(&mut text, format_args!("{count}{unit}"));
        }
    }
    if seconds % 60 > 0 || nanos / 100 > 0 {
        push(&mut text, format_args!("{}", seconds % 60));
        push_fraction(&mut text, nanos);
        text.push('S');
    }
    text
}

fn push_units(escaped: &mut String, c: char) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        push(escaped, format_args!("_x{unit:04X}_"));
    }
}

/// The unit that `_xHHHH_` at the beginning of the text stands for, and its length.
fn escaped_unit(text: &str) -> Option<(u16, usize)> {
    let [b'_', b'x' | b'X', a, b, c, d, b'_', ..] = text.as_bytes() else { return None };
    let digits = [a, b, c, d].map(|byte| char::from(*byte).to_digit(16));
    let unit = digits.into_iter().try_fold(0, |all, digit| Some(all << 4 | digit?))?;
    Some((u16::try_from(unit).ok()?, "_xHHHH_".len()))
}

fn push_fraction(text: &mut String, nanos: u32) {
    if nanos / 100 > 0 {
        let decimals = format!("{:07}", nanos / 100);
        push(text, format_args!(".{}", decimals.trim_end_matches('0')));
    }
}

/// `12H34M` with `H` is 12 and `34M`; what lacks the unit is 0 and all of it.
fn part(text: &str, unit: char) -> Option<(i64, &str)> {
    match text.split_once(unit) {
        Some((number, rest)) => Some((whole(number)?, rest)),
        None => Some((0, text)),
    }
}

fn read_seconds(text: &str) -> Option<(i64, u32)> {
    if text.is_empty() {
        return Some((0, 0));
    }
    let text = text.strip_suffix('S')?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let nanos: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos = u32::try_from(whole(&nanos)?).ok().filter(|_| are_digits(fraction))?;
    Some((whole(seconds)?, whole_ticks(nanos)?))
}

/// Down to a tenth of a microsecond, a tick of .NET: no more can be written again. `None` for a leap second, of which .NET knows nothing.
fn whole_ticks(nanos: u32) -> Option<u32> {
    (nanos < NANOS_OF_SECOND).then_some(nanos - nanos % NANOS_OF_TICK)
}

/// Digits only: `parse` would take a sign too.
fn whole(digits: &str) -> Option<i64> {
    are_digits(digits).then(|| digits.parse().ok())?
}

fn are_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

fn push(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("writing to a String does not fail");
}

/// `_` in UTF-16.
const UNDERSCORE: u16 = 0x5F;

const NANOS_OF_SECOND: u32 = 1_000_000_000;
const NANOS_OF_TICK: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_as_powershell_does_it() {
        let table = [
            ("plain äöü €", "plain äöü €"),
            ("a\tb\r\n", "a_x0009_b_x000D__x000A_"),
            ("\0\u{7F}\u{85}\u{FFFF}", "_x0000__x007F__x0085__xFFFF_"),
            ("😀", "_xD83D__xDE00_"),
            ("_x0041_", "_x005F_x0041_"),
            ("_X_x_", "_x005F_X_x005F_x_"),
            ("__x", "__x005F_x"),
            ("<&>\"'", "&lt;&amp;&gt;&quot;'"),
        ];
        for (plain, escaped) in table {
            assert_eq!(escape(plain), escaped);
            if !plain.starts_with('<') {
                assert_eq!(unescape(escaped), plain);
            }
        }
    }

    #[test]
    fn what_is_no_escape_stays() {
        for text in ["_x004_", "_x00g1_", "_x0041", "x0041_", "_", "_x", "_xä041_", "_x00äö_", "a_b_c"] {
            assert_eq!(unescape(text), text);
        }
        assert_eq!(unescape("_x0041_x0042_"), "Ax0042_");
        assert_eq!(unescape("_X0041__x00e4_"), "Aä");
    }

    #[test]
    fn half_a_surrogate_pair_is_replaced() {
        assert_eq!(unescape("_xD83D_a_xDE00_"), "\u{FFFD}a\u{FFFD}");
        assert_eq!(unescape("_xDE00__xD83D_"), "\u{FFFD}\u{FFFD}");
    }

    #[test]
    fn durations_are_read_and_written() {
        let table = [
            ("PT0S", 0, 0),
            ("PT10S", 10, 0),
            ("P1D", 86_400, 0),
            ("P1DT2H3M4.5S", 93_784, 500_000_000),
            ("PT0.0000001S", 0, 100),
            ("P10675199DT2H48M5.4775807S", 922_337_203_685, 477_580_700),
        ];
        for (text, seconds, nanos) in table {
            let span = TimeDelta::new(seconds, nanos).unwrap();
            assert_eq!((read_duration(text), duration(span).as_str()), (Some(span), text));
            let negative = (read_duration(&format!("-{text}")), duration(-span));
            let sign = if span.is_zero() { "" } else { "-" };
            assert_eq!(negative, (Some(-span), format!("{sign}{text}")));
        }
    }

    #[test]
    fn what_is_no_duration_is_none() {
        let wrong = [
            "",
            "P",
            "PT",
            "P1",
            "PT1",
            "P1H",
            "PT1D",
            "P1Y",
            "P+1D",
            "PT1.S2",
            "PT1.5",
            "PTS",
            "PT.5S",
            "T1S",
            "PT1.0123456789xS",
        ];
        for text in wrong {
            assert_eq!(read_duration(text), None, "{text}");
        }
        assert_eq!(read_duration(&format!("P{}D", i64::MAX)), None);
        assert_eq!(read_duration("P99999999999999999999D"), None);
    }

    #[test]
    fn dates_are_read_and_written_with_and_without_a_zone() {
        let table = [
            "2026-11-23T10:20:30Z",
            "2026-11-23T10:20:30.1234567+01:00",
            "2026-11-23T10:20:30.5-09:30",
            "2026-11-23T10:20:30",
            "2026-11-23T10:20:30.0000001",
            "0001-01-01T00:00:00",
            "9999-12-31T23:59:59.9999999",
        ];
        for text in table {
            let written = match read_date_time(text).unwrap() {
                Value::DateTime(at) => date_time(&at),
                Value::NaiveDateTime(at) => naive_date_time(&at),
                other => panic!("{other:?}"),
            };
            assert_eq!(written, text);
        }
        assert_eq!(read_date_time("2026-13-01T00:00:00"), None);
        assert_eq!(read_date_time("yesterday"), None);
    }

    #[test]
    fn what_is_finer_than_a_tick_is_cut_off_and_a_leap_second_is_no_time() {
        for (fine, tick) in [
            ("2026-11-23T10:20:30.123456789Z", "2026-11-23T10:20:30.1234567Z"),
            ("2026-11-23T10:20:30.999999999", "2026-11-23T10:20:30.9999999"),
        ] {
            assert_eq!(read_date_time(fine), read_date_time(tick));
        }
        assert_eq!(read_duration("-PT0.123456789S"), read_duration("-PT0.1234567S"));
        for leap in ["2016-12-31T23:59:60Z", "2016-12-31T23:59:60.5", "2016-12-31T23:59:60+00:00"] {
            assert_eq!(read_date_time(leap), None);
        }
    }
}
