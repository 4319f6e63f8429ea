#![forbid(unsafe_code)]
//! Pages of the server's own: errors, and what stands in a directory.

use std::time::{Duration, SystemTime};

use maud::{DOCTYPE, html};

/// A page that says what is wrong.
pub(crate) fn error(status: u16, phrase: &str, why: &str) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { (status) " " (phrase) }
            }
            body {
                h1 { (status) " " (phrase) }
                p { (why) }
            }
        }
    }
    .into_string()
}

/// One row of a listing.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    /// Files behind directories.
    pub(crate) is_file: bool,
    pub(crate) name: String,
    /// Its name as a relative reference.
    pub(crate) link: String,
    pub(crate) size: u64,
    /// Seconds since 1970.
    pub(crate) modified: u64,
}

/// What stands in a directory. `path` is for people; `more` says that rows were left out.
pub(crate) fn listing(path: &str, rows: &[Row], more: bool) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Index of " (path) }
            }
            body {
                h1 { "Index of " (path) }
                table {
                    thead { tr { th { "Name" } th { "Bytes" } th { "Last modified" } } }
                    tbody {
                        @if path != "/" {
                            tr { td { a href="../" { "../" } } td {} td {} }
                        }
                        @for row in rows {
                            tr {
                                td { a href=(row.link) { (row.name) @if !row.is_file { "/" } } }
                                td { @if row.is_file { (row.size) } }
                                td { (date(row.modified)) }
                            }
                        }
                    }
                }
                @if more { p { "There are more; these are the first." } }
            }
        }
    }
    .into_string()
}

/// The date of a file; none beyond the year 9999, where HTTP's dates end.
fn date(seconds: u64) -> String {
    if seconds >= 253_402_300_800 {
        return String::new();
    }
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}
