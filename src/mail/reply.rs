#![forbid(unsafe_code)]
//! Replies of an SMTP or LMTP server (RFC 5321, 4.2), as a client reads them.

/// The longest reply that is taken, in bytes: a long list of keywords has a few hundred.
const MOST: usize = 16 * 1024;

/// A whole reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// 200 to 599.
    pub code: u16,
    /// The text of each line, without code and line end.
    pub lines: Vec<String>,
}

/// Not a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoReply;

impl Reply {
    /// Takes a whole reply off the front; `None` until there is one.
    ///
    /// # Errors
    /// It is no reply, or longer than 16 KiB.
    pub fn take(bytes: &mut Vec<u8>) -> Result<Option<Self>, NoReply> {
        let (mut at, mut lines, mut code) = (0, Vec::new(), None);
        while let Some(end) = memchr::memchr(b'\n', &bytes[at..]) {
            let line = &bytes[at..at + end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            at += end + 1;
            let (digits, rest) = line.split_at_checked(3).ok_or(NoReply)?;
            let digits = std::str::from_utf8(digits)
                .ok()
                .and_then(|text| text.parse().ok());
            let this = digits
                .filter(|code| (200..600).contains(code))
                .ok_or(NoReply)?;
            if *code.get_or_insert(this) != this {
                return Err(NoReply);
            }
            let text = rest.get(1..).unwrap_or_default();
            // What is passed on to a client is text.
            let text: String = String::from_utf8_lossy(text)
                .chars()
                .filter(|letter| !letter.is_control())
                .collect();
            lines.push(text);
            match rest.first() {
                Some(b'-') => {}
                None | Some(b' ') => {
                    bytes.drain(..at);
                    return Ok(Some(Reply { code: this, lines }));
                }
                Some(_) => return Err(NoReply),
            }
        }
        if bytes.len() > MOST {
            return Err(NoReply);
        }
        Ok(None)
    }

    /// True for 2yz and 3yz.
    #[must_use]
    pub fn is_positive(&self) -> bool {
        self.code < 400
    }

    /// As it is sent on.
    #[must_use]
    pub fn text(&self) -> String {
        let last = self.lines.len().saturating_sub(1);
        let line = |(index, text): (usize, &String)| {
            let dash = if index == last { ' ' } else { '-' };
            format!("{}{dash}{text}\r\n", self.code)
        };
        self.lines.iter().enumerate().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{NoReply, Reply};

    #[test]
    fn a_reply_is_taken_when_it_is_whole() {
        let bytes = b"250-mx.example\r\n250-SIZE 10\r\n250 HELP\r\n220\r\n";
        for chunk in 1..=bytes.len() {
            let (mut buffer, mut replies) = (Vec::new(), Vec::new());
            for piece in bytes.chunks(chunk) {
                buffer.extend_from_slice(piece);
                while let Some(reply) = Reply::take(&mut buffer).unwrap() {
                    replies.push(reply);
                }
            }
            assert_eq!(replies.len(), 2);
            assert_eq!(
                replies[0].text(),
                "250-mx.example\r\n250-SIZE 10\r\n250 HELP\r\n"
            );
            assert_eq!((replies[1].code, replies[1].lines.len()), (220, 1));
        }
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        for bytes in [
            &b"hello\r\n"[..],
            b"25\r\n",
            b"199 x\r\n",
            b"250-a\r\n251 b\r\n",
            b"250=x\r\n",
            &[b'2'; 20_000],
        ] {
            assert_eq!(Reply::take(&mut bytes.to_vec()), Err(NoReply));
        }
        assert_eq!(
            Reply::take(&mut b"250 a\x1b[1mb\r\n".to_vec())
                .unwrap()
                .unwrap()
                .text(),
            "250 a[1mb\r\n"
        );
    }
}
