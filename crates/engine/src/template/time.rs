//! `strftime_now` of chat templates: a moment in UTC, written by a Python format string.

use std::fmt::Write;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const DAY_S: i64 = 86_400;

/// The moment's parts, by the proleptic Gregorian calendar.
struct Moment {
    year: i64,
    month: usize,
    day: i64,
    day_of_year: i64,
    weekday: usize,
    second_of_day: i64,
}

impl Moment {
    fn new(unix_s: i64) -> Moment {
        let days = unix_s.div_euclid(DAY_S);
        let weekday = (days + 4).rem_euclid(7) as usize;
        // Years and months from day counts: Howard Hinnant, "chrono-Compatible Low-Level Date
        // Algorithms", civil_from_days: years that begin in March, in eras of 400 years.
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_from_march + 2) / 153;
        let day = day_from_march - (153 * month_from_march + 2) / 5 + 1;
        let month = (month_from_march as usize + 2) % 12;
        let year = year_of_era + era * 400 + i64::from(month < 2);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let before_march = if month < 2 { -306 } else { 59 + i64::from(leap) };
        let day_of_year = day_from_march + before_march + 1;
        Moment { year, month, day, day_of_year, weekday, second_of_day: unix_s.rem_euclid(DAY_S) }
    }
}

/// Writes seconds since 1970 by a format of Python's `strftime` (`%-d` and its like too). A
/// directive that is not known stays as it is.
pub(super) fn strftime(format: &str, unix_s: i64) -> String {
    // Beyond this the year no longer has four digits.
    let moment = Moment::new(unix_s.clamp(-62_135_596_800, 253_402_300_799));
    let mut out = String::with_capacity(format.len() * 2);
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = rest.next();
        let padded = directive != Some('-');
        if !padded {
            directive = rest.next();
        }
        let Some(directive) = directive else {
            out.push_str(if padded { "%" } else { "%-" });
            break;
        };
        if !write_directive(&mut out, &moment, (directive, padded)) {
            out.push_str(if padded { "%" } else { "%-" });
            out.push(directive);
        }
    }
    out
}

fn write_directive(out: &mut String, moment: &Moment, (directive, padded): (char, bool)) -> bool {
    let (hour, minute, second) =
        (moment.second_of_day / 3_600, moment.second_of_day / 60 % 60, moment.second_of_day % 60);
    let month = MONTHS.get(moment.month).copied().unwrap_or_default();
    let weekday = WEEKDAYS.get(moment.weekday).copied().unwrap_or_default();
    let (number, width) = match directive {
        'Y' => (moment.year, 4),
        'y' => (moment.year % 100, 2),
        'm' => (moment.month as i64 + 1, 2),
        'd' => (moment.day, 2),
        'e' => {
            // Writing to a string cannot fail, here and below.
            let _ = write!(out, "{:2}", moment.day);
            return true;
        }
        'j' => (moment.day_of_year, 3),
        'H' => (hour, 2),
        'I' => ((hour + 11) % 12 + 1, 2),
        'M' => (minute, 2),
        'S' => (second, 2),
        'F' => {
            let _ = write!(out, "{:04}-{:02}-{:02}", moment.year, moment.month + 1, moment.day);
            return true;
        }
        'T' => {
            let _ = write!(out, "{hour:02}:{minute:02}:{second:02}");
            return true;
        }
        'B' | 'b' | 'A' | 'a' | 'p' | 'Z' | 'z' | '%' | 'n' | 't' => {
            out.push_str(match directive {
                'B' => month,
                'b' => month.get(..3).unwrap_or(month),
                'A' => weekday,
                'a' => weekday.get(..3).unwrap_or(weekday),
                'p' => ["AM", "PM"][usize::from(hour >= 12)],
                'Z' => "UTC",
                'z' => "+0000",
                'n' => "\n",
                't' => "\t",
                _ => "%",
            });
            return true;
        }
        _ => return false,
    };
    let _ = write!(out, "{number:0width$}", width = if padded { width } else { 1 });
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_like_python() {
        // Expected values from Python's datetime.
        for (unix_s, expected) in [
            (0, "01 Jan 1970|Thursday|001|00:00:00|12 AM"),
            (951_782_400, "29 Feb 2000|Tuesday|060|00:00:00|12 AM"),
            (951_868_800, "01 Mar 2000|Wednesday|061|00:00:00|12 AM"),
            (1_709_251_199, "29 Feb 2024|Thursday|060|23:59:59|11 PM"),
            (1_735_689_599, "31 Dec 2024|Tuesday|366|23:59:59|11 PM"),
            (1_767_225_600, "01 Jan 2026|Thursday|001|00:00:00|12 AM"),
            (4_107_542_400, "01 Mar 2100|Monday|060|00:00:00|12 AM"),
            (-1, "31 Dec 1969|Wednesday|365|23:59:59|11 PM"),
        ] {
            assert_eq!(strftime("%d %b %Y|%A|%j|%H:%M:%S|%I %p", unix_s), expected);
        }
        assert_eq!(
            strftime("%-d %B %y, %e%% %F %T %a", 1_709_251_199),
            "29 February 24, 29% 2024-02-29 23:59:59 Thu"
        );
        assert_eq!(strftime("%-d|%e|%Q|%", 0), "1| 1|%Q|%");
    }

    #[test]
    fn days_follow_each_other() {
        let mut previous = Moment::new(-800_000 * DAY_S);
        for days in -719_000..800_000_i64 {
            let moment = Moment::new(days * DAY_S);
            if days > -719_000 {
                let next_day = (moment.year, moment.month, moment.day)
                    == (previous.year, previous.month, previous.day + 1)
                    && moment.day_of_year == previous.day_of_year + 1;
                let next_month = moment.day == 1
                    && previous.day >= 28
                    && (moment.month == previous.month + 1 && moment.day_of_year == previous.day_of_year + 1
                        || moment.month == 0
                            && previous.month == 11
                            && moment.year == previous.year + 1
                            && moment.day_of_year == 1);
                assert!(next_day || next_month, "day {days}");
                assert_eq!(moment.weekday, (previous.weekday + 1) % 7);
            }
            previous = moment;
        }
    }
}
