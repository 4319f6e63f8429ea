#![forbid(unsafe_code)]
//! Daytime (RFC 867): the date and time as a line for people, in UTC.

use std::sync::Arc;
use std::time::SystemTime;

use super::echo::is_reflector;
use super::{ModuleEntry, NoSettings};
use crate::session::{
    Context, Datagram, DatagramContext, DatagramModule, Event, Module, Next, Peer, Session,
};

pub(super) const ENTRY: ModuleEntry = ModuleEntry {
    name: "Daytime",
    about: "tells the date and time (RFC 867)",
    keys: &[],
    tcp: Some(|settings| {
        settings
            .read::<NoSettings>()
            .map(|_| Arc::new(Daytime) as Arc<dyn Module>)
    }),
    udp: Some(|settings| {
        settings
            .read::<NoSettings>()
            .map(|_| Arc::new(Daytime) as Arc<dyn DatagramModule>)
    }),
};

struct Daytime;

impl Module for Daytime {
    fn open(&self, _peer: &Peer) -> Box<dyn Session> {
        Box::new(Daytime)
    }
}

impl Session for Daytime {
    fn handle(&mut self, event: Event<'_>, cx: &mut Context<'_>) -> Next {
        if matches!(event, Event::Open) {
            let line = line(cx.wall());
            cx.write(line.as_bytes());
        }
        Next::Close
    }
}

impl DatagramModule for Daytime {
    fn answer(&self, datagram: &Datagram<'_>, cx: &mut DatagramContext<'_>) {
        if !is_reflector(datagram) {
            let line = line(cx.wall());
            cx.reply(line.as_bytes());
        }
    }
}

const DAYS: [&str; 7] = [
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
];
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

/// The popular syntax of RFC 867, 3: `Tuesday, February 22, 1982 17:37:43-UTC`.
fn line(now: SystemTime) -> String {
    let seconds = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // 1 January 1970 was a Thursday.
    let day_name = DAYS.get((days % 7) as usize).copied().unwrap_or_default();
    let (year, month, day) = civil(days);
    let month = MONTHS.get(month).copied().unwrap_or_default();
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{day_name}, {month} {day}, {year} {hour:02}:{minute:02}:{second:02}-UTC\r\n")
}

/// Year, month from 0 and day from 1 of a day since 1970, in the Gregorian calendar.
fn civil(mut days: u64) -> (u64, usize, u64) {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [
        31,
        28 + u64::from(leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let mut month = 0;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::{Daytime, line};
    use crate::dialogue::check;
    use std::time::{Duration, SystemTime};

    #[test]
    fn the_line_is_that_of_the_rfc() {
        for (seconds, expected) in [
            (0, "Thursday, January 1, 1970 00:00:00-UTC\r\n"),
            (383_247_463, "Monday, February 22, 1982 17:37:43-UTC\r\n"),
            (951_782_399, "Monday, February 28, 2000 23:59:59-UTC\r\n"),
            (951_868_799, "Tuesday, February 29, 2000 23:59:59-UTC\r\n"),
            (1_795_514_400, "Tuesday, November 24, 2026 10:00:00-UTC\r\n"),
        ] {
            assert_eq!(
                line(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
                expected
            );
        }
    }

    #[test]
    fn the_time_is_told_and_the_connection_closed() {
        check(
            &Daytime,
            "S: Tuesday, November 24, 2026 10:00:00-UTC\nS: <close>",
        );
    }
}
