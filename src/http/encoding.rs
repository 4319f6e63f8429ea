#![forbid(unsafe_code)]
//! Content codings of files that were compressed beforehand (RFC 9110, 12.5.3).

use super::Request;

/// A coding, and how a file in it is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Coding {
    /// As in Content-Encoding.
    pub(crate) name: &'static str,
    /// Behind the plain file's name.
    pub(crate) suffix: &'static str,
}

/// The codings there may be files in, the smallest results first.
pub(crate) const CODINGS: [Coding; 3] = [
    Coding {
        name: "br",
        suffix: ".br",
    },
    Coding {
        name: "zstd",
        suffix: ".zst",
    },
    Coding {
        name: "gzip",
        suffix: ".gz",
    },
];

/// The codings that a client takes, in our order.
pub(crate) fn accepted(request: &Request<'_, '_>) -> impl Iterator<Item = Coding> {
    let mut taken = [false; CODINGS.len()];
    for member in request.list("accept-encoding") {
        let mut words = member.split(';').map(str::trim);
        let name = words.next().unwrap_or_default();
        let refused = words.any(|word| {
            let weight = word.strip_prefix("q=").or_else(|| word.strip_prefix("Q="));
            weight.is_some_and(|weight| weight.parse::<f32>().is_ok_and(|weight| weight == 0.0))
        });
        for (taken, coding) in taken.iter_mut().zip(CODINGS) {
            let alias = coding.name == "gzip" && name.eq_ignore_ascii_case("x-gzip");
            if alias || name.eq_ignore_ascii_case(coding.name) {
                *taken = !refused;
            }
        }
    }
    CODINGS
        .into_iter()
        .zip(taken)
        .filter_map(|(coding, taken)| taken.then_some(coding))
}
