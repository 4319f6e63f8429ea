#![forbid(unsafe_code)]
//! From the Markdown of docs/ to man(7): headings, paragraphs, lists, code, and tables as tagged paragraphs.

use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

const HEAD: &str = "\
.TH portreeve.ron 5 \"\" portreeve \"File Formats\"
.SH NAME
portreeve.ron \\- configuration of portreeve(8)
.SH DESCRIPTION
";

const FOOT: &str = ".SH \"SEE ALSO\"\n.BR portreeve (8)\n";

/// The page that a text makes. Its first heading is the page's own, and left out.
pub(super) fn render(markdown: &str) -> String {
    let mut page = Page {
        out: HEAD.to_owned(),
        ..Page::default()
    };
    let events = Parser::new_ext(markdown, Options::ENABLE_TABLES);
    events.for_each(|event| page.take(event));
    page.out + FOOT
}

#[derive(Default)]
struct Page {
    out: String,
    /// The paragraph, heading or cell that is being read.
    text: String,
    /// The cells of a table's row so far.
    row: Vec<String>,
    is_code: bool,
}

impl Page {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(Tag::CodeBlock(_)) => {
                self.is_code = true;
                self.out += ".PP\n.RS 4\n.nf\n";
            }
            Event::End(TagEnd::CodeBlock) => {
                self.is_code = false;
                self.out += ".fi\n.RE\n";
            }
            Event::Text(text) if self.is_code => {
                for line in text.lines() {
                    self.line(&escape(line));
                }
            }
            Event::Text(text) => self.text += &escape(&text),
            Event::Code(text) => self.text += &format!("\\fB{}\\fR", escape(&text)),
            Event::SoftBreak | Event::HardBreak => self.text.push(' '),
            Event::End(TagEnd::Heading(HeadingLevel::H1)) => self.text.clear(),
            Event::End(TagEnd::Heading(HeadingLevel::H2)) => self.heading(".SH"),
            Event::End(TagEnd::Heading(_)) => self.heading(".SS"),
            Event::End(TagEnd::Paragraph) => self.paragraph(),
            Event::End(TagEnd::Item) => {
                self.out += ".IP \\(bu 3\n";
                let text = std::mem::take(&mut self.text);
                self.line(&text);
            }
            Event::End(TagEnd::TableCell) => self.row.push(std::mem::take(&mut self.text)),
            Event::End(TagEnd::TableHead) => self.row.clear(),
            Event::End(TagEnd::TableRow) => self.tagged(),
            _ => {}
        }
    }

    fn heading(&mut self, macro_name: &str) {
        let text = std::mem::take(&mut self.text).replace('"', "\\(dq");
        self.out += &format!("{macro_name} \"{text}\"\n");
    }

    fn paragraph(&mut self) {
        let text = std::mem::take(&mut self.text);
        // A row that stands for itself, as those of the modules do, heads what follows.
        if text.starts_with('|') {
            self.row = text
                .trim_matches('|')
                .split('|')
                .map(|cell| cell.trim().to_owned())
                .collect();
            self.tagged();
            return;
        }
        self.out += ".PP\n";
        self.line(&text);
    }

    /// A table's row: its first cell, and what the others say of that.
    fn tagged(&mut self) {
        let row = std::mem::take(&mut self.row);
        let mut cells = row.iter().filter(|cell| !cell.is_empty());
        let Some(tag) = cells.next() else { return };
        self.out += ".TP\n";
        self.line(tag);
        let rest: Vec<&str> = cells.map(String::as_str).collect();
        self.line(&match rest.as_slice() {
            [default, meaning] => format!("{meaning} (\\fI{default}\\fR)"),
            other => other.join("; "),
        });
    }

    /// A line that is none of roff's requests.
    fn line(&mut self, text: &str) {
        if text.starts_with(['.', '\'']) {
            self.out += "\\&";
        }
        self.out += text;
        self.out.push('\n');
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

#[cfg(test)]
mod tests {
    use super::render;

    #[test]
    fn markdown_becomes_a_manual_page() {
        let page = render(
            "# T\n\n## One\n\nUse `a-b`.\n\n| key | default | meaning |\n|-|-|-|\n| `k` | 1 | the k |\n\n    .x\n",
        );
        let body = page.split("DESCRIPTION\n").nth(1).unwrap();
        let wanted = ".SH \"One\"\n.PP\nUse \\fBa\\-b\\fR.\n.TP\n\\fBk\\fR\nthe k (\\fI1\\fR)\n.PP\n.RS 4\n.nf\n\\&.x\n.fi\n.RE\n";
        assert!(body.starts_with(wanted), "{body}");
    }
}
