//! Mail submission (RFC 5321, 6409): one message over one connection.
//!
//! Goes in: a server as `smtp://USER:PASSWORD@HOST:PORT` or `smtps://…`, and a mail. Comes out: that the server took it, or
//! why not, without the password. `smtps` is encrypted from the beginning (port 465); `smtp` (port 587 with a user, 25
//! without) as soon as the server offers it. A password is sent over an encrypted connection only, or to this machine. Lines and
//! replies of the server are bounded; whoever calls this bounds the time.
//!
//! Written here because this much of SMTP is small, while lettre with rustls would add a dozen packages to the first
//! build (an address parser, MIME, encodings, a second connection pool).

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use crate::client::{Dialer, Origin, Stream};
use crate::config::Secret;

/// A reply's line is not longer (RFC 5321: 512), and a reply has not more lines.
const LONGEST_LINE: u64 = 2048;
const MOST_LINES: usize = 100;

/// A mail server.
#[derive(Clone, Debug)]
pub(super) struct Server {
    origin: Origin,
    login: Option<(String, Secret)>,
}

/// A mail.
pub(super) struct Mail<'a> {
    pub(super) from: &'a str,
    pub(super) to: &'a [String],
    pub(super) subject: String,
    pub(super) text: &'a str,
    /// When it is sent.
    pub(super) at_us: i64,
}

impl Server {
    /// Reads the address. The error does not repeat it.
    pub(super) fn parse(address: &Secret) -> Result<Server, String> {
        let (scheme, rest) = address.expose().split_once("://").unwrap_or_default();
        let is_https = match scheme {
            "smtps" => true,
            "smtp" => false,
            _ => return Err("the server's address must begin with smtp:// or smtps://".to_owned()),
        };
        let rest = rest.trim_end_matches('/');
        let (login, server) = rest.rsplit_once('@').map_or((None, rest), |(login, server)| (Some(login), server));
        let login = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            Some((user, password)) => {
                let decode = |text| percent_decode(text).ok_or("the user or password is not percent-encoded text");
                Some((decode(user)?, Secret::new(&decode(password)?)))
            }
            None => None,
        };
        let (host, port) = match server.rsplit_once(':') {
            // The colons of an address without a port.
            Some(_) if server.ends_with(']') => (server, None),
            Some((host, port)) => (host, Some(port.parse().map_err(|_| "the port is no number up to 65535")?)),
            None => (server, None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_name = |c: char| c.is_ascii_alphanumeric() || ".:-_".contains(c);
        if host.is_empty() || !host.chars().all(is_name) {
            return Err("the server's address has no host".to_owned());
        }
        let usual = match (is_https, &login) {
            (true, _) => 465,
            (false, Some(_)) => 587,
            (false, None) => 25,
        };
        Ok(Server { origin: Origin { is_https, host, port: port.unwrap_or(usual) }, login })
    }

    fn is_this_machine(&self) -> bool {
        let address: Result<IpAddr, _> = self.origin.host.parse();
        self.origin.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let pair = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(str::from_utf8(&pair).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Sends a mail. It succeeds if the server takes it for at least one of the recipients.
pub(super) async fn send(dialer: &Dialer, server: &Server, mail: &Mail<'_>) -> Result<(), String> {
    let from = bare(mail.from)?;
    let recipients = mail.to.iter().map(|to| bare(to)).collect::<Result<Vec<_>, _>>()?;
    let name = from.rsplit_once('@').map_or("localhost", |(_, host)| host);
    let mut talk = begin(dialer, server, name).await?;
    if let Some((user, password)) = &server.login {
        talk.login(user, password).await?;
    }
    talk.command(&format!("MAIL FROM:<{from}>"), 250).await?;
    let mut refusal = None;
    let mut accepted = 0;
    for to in recipients {
        // 251: it will forward.
        match talk.say(&format!("RCPT TO:<{to}>")).await? {
            reply if reply.is(250) || reply.is(251) => accepted += 1,
            reply => refusal = refusal.or(Some(reply.complaint("a recipient"))),
        }
    }
    if accepted == 0 {
        return Err(refusal.unwrap_or_else(|| "there is no recipient".to_owned()));
    }
    talk.command("DATA", 354).await?;
    let reply = talk.say(&format!("{}\r\n.", message(mail, name)?)).await?;
    if !reply.is(250) {
        return Err(reply.complaint("the mail"));
    }
    let _ = talk.say("QUIT").await;
    Ok(())
}

/// Connects and greets, and encrypts where that is possible.
async fn begin(dialer: &Dialer, server: &Server, name: &str) -> Result<Talk, String> {
    let stream = dialer.connect_other(&server.origin).await.map_err(|fault| fault.to_string())?;
    let mut talk = Talk::new(stream);
    talk.greet(name, true).await?;
    let mut is_encrypted = server.origin.is_https;
    if !is_encrypted && talk.offers("STARTTLS") {
        talk.command("STARTTLS", 220).await?;
        if !talk.stream.buffer().is_empty() {
            // What was sent before the encryption might be somebody else's.
            return Err("the mail server sends on before it encrypts".to_owned());
        }
        let encrypted = dialer.encrypt_other(&server.origin, talk.stream.into_inner()).await;
        talk = Talk::new(encrypted.map_err(|fault| fault.to_string())?);
        talk.greet(name, false).await?;
        is_encrypted = true;
    }
    if server.login.is_some() && !is_encrypted && !server.is_this_machine() {
        return Err("the mail server offers no encryption, so the password was not sent".to_owned());
    }
    Ok(talk)
}

/// A conversation with the server.
struct Talk {
    stream: BufReader<Stream>,
    /// What it can do, as its answer to EHLO says.
    offers: Vec<String>,
}

/// A reply.
struct Reply {
    code: u16,
    /// Without the code.
    lines: Vec<String>,
}

impl Reply {
    fn is(&self, code: u16) -> bool {
        self.code == code
    }

    fn complaint(&self, what: &str) -> String {
        let text: String = self.lines.join(" ").chars().filter(|c| !c.is_control()).take(200).collect();
        format!("the mail server refuses {what}: {} {text}", self.code)
    }
}

impl Talk {
    fn new(stream: Stream) -> Talk {
        Talk { stream: BufReader::new(stream), offers: Vec::new() }
    }

    fn offers(&self, word: &str) -> bool {
        self.offers.iter().any(|offer| offer.eq_ignore_ascii_case(word))
    }

    async fn greet(&mut self, name: &str, is_first: bool) -> Result<(), String> {
        if is_first {
            let reply = self.reply().await?;
            if !reply.is(220) {
                return Err(reply.complaint("the connection"));
            }
        }
        let reply = self.command(&format!("EHLO {name}"), 250).await?;
        self.offers = reply.lines.into_iter().skip(1).collect();
        Ok(())
    }

    async fn login(&mut self, user: &str, password: &Secret) -> Result<(), String> {
        let auth =
            self.offers.iter().find_map(|offer| offer.to_ascii_uppercase().strip_prefix("AUTH ").map(str::to_owned));
        let auth = auth.unwrap_or_default();
        let has = |word: &str| auth.split(' ').any(|offer| offer == word);
        if has("PLAIN") {
            let secret = STANDARD.encode(format!("\0{user}\0{}", password.expose()));
            return self.secret(&format!("AUTH PLAIN {secret}")).await;
        }
        if has("LOGIN") {
            self.command("AUTH LOGIN", 334).await?;
            let reply = self.say(&STANDARD.encode(user)).await?;
            if !reply.is(334) {
                return Err(reply.complaint("the user"));
            }
            return self.secret(&STANDARD.encode(password.expose())).await;
        }
        Err("the mail server offers no way to log in that is known here (PLAIN, LOGIN)".to_owned())
    }

    /// Says something that must not be repeated.
    async fn secret(&mut self, line: &str) -> Result<(), String> {
        let reply = self.say(line).await?;
        if reply.is(235) { Ok(()) } else { Err(format!("the mail server refuses the login: {}", reply.code)) }
    }

    async fn command(&mut self, line: &str, wanted: u16) -> Result<Reply, String> {
        let reply = self.say(line).await?;
        if reply.is(wanted) {
            return Ok(reply);
        }
        Err(reply.complaint(line.split(' ').next().unwrap_or_default()))
    }

    async fn say(&mut self, line: &str) -> Result<Reply, String> {
        let gone = |error: std::io::Error| format!("the connection to the mail server failed: {error}");
        let stream = self.stream.get_mut();
        stream.write_all(format!("{line}\r\n").as_bytes()).await.map_err(gone)?;
        stream.flush().await.map_err(gone)?;
        self.reply().await
    }

    async fn reply(&mut self) -> Result<Reply, String> {
        let mut lines = Vec::new();
        while lines.len() < MOST_LINES {
            let mut line = Vec::new();
            let read = (&mut self.stream).take(LONGEST_LINE).read_until(b'\n', &mut line).await;
            read.map_err(|error| format!("the connection to the mail server failed: {error}"))?;
            if !line.ends_with(b"\n") {
                return Err("the mail server closed the connection, or sends what is no SMTP".to_owned());
            }
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let code = line.get(..3).and_then(|code| code.parse().ok());
            let Some(code) = code else { return Err("the mail server sends what is no SMTP".to_owned()) };
            lines.push(line.get(4..).unwrap_or_default().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(Reply { code, lines });
            }
        }
        Err("the mail server sends too many lines".to_owned())
    }
}

/// The address alone, of `NAME <ADDRESS>` too.
fn bare(text: &str) -> Result<&str, String> {
    let inner = text.rsplit_once('<').map_or(text, |(_, rest)| rest.trim_end_matches('>')).trim();
    let plain = |c: char| c.is_ascii_graphic() && !"<>,;:\\\"()[]".contains(c);
    let is_address = inner.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty());
    if is_address && inner.len() <= 254 && inner.chars().all(plain) {
        return Ok(inner);
    }
    Err("an address is none that a mail can be sent to".to_owned())
}

/// The mail as it is sent: the text is base64, so it needs no escaping and no line is too long.
fn message(mail: &Mail<'_>, host: &str) -> Result<String, String> {
    let date = jiff::Timestamp::from_microsecond(mail.at_us).map_err(|error| error.to_string())?;
    let date =
        jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_string(&date).map_err(|error| error.to_string())?;
    let mut random = [0; 16];
    SystemRandom::new().fill(&mut random).map_err(|_| "this machine gives no random bytes".to_owned())?;
    let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let recipients: Vec<&str> = mail.to.iter().map(|to| bare(to)).collect::<Result<_, _>>()?;
    let text = mail.text.replace('\n', "\r\n");
    let text = STANDARD.encode(format!("{text}\r\n"));
    let lines: Vec<&str> = text.as_bytes().chunks(76).filter_map(|line| str::from_utf8(line).ok()).collect();
    Ok(format!(
        "From: <{from}>\r\nTo: <{to}>\r\nSubject: {subject}\r\nDate: {date}\r\nMessage-ID: <{id}@{host}>\r\n\
         Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n{body}",
        from = bare(mail.from)?,
        to = recipients.join(">,\r\n <"),
        subject = header_text(&mail.subject),
        body = lines.join("\r\n"),
    ))
}

/// A header's text: as it is, if it is ASCII, otherwise encoded (RFC 2047).
fn header_text(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).take(100).collect();
    if text.is_ascii() {
        return text;
    }
    // 45 bytes of text are 60 of base64; an encoded word has at most 75 characters.
    let mut words = Vec::new();
    let mut word = String::new();
    for c in text.chars() {
        if word.len() + c.len_utf8() > 45 {
            words.push(std::mem::take(&mut word));
        }
        word.push(c);
    }
    words.push(word);
    words.iter().map(|word| format!("=?utf-8?B?{}?=", STANDARD.encode(word))).collect::<Vec<_>>().join("\r\n ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, String> {
        let server = Server::parse(&Secret::new(text))?;
        let login = server.login.map(|(user, password)| format!("{user} {}", password.expose()));
        Ok(format!("{} {}", server.origin, login.unwrap_or_default()))
    }

    #[test]
    fn servers() {
        for (text, want) in [
            ("smtp://localhost", "http://localhost:25 "),
            ("smtp://u:p@mail.example.org", "http://mail.example.org:587 u p"),
            ("smtps://u%40example.org:p%3aw@mail.example.org/", "https://mail.example.org:465 u@example.org p:w"),
            ("smtp://[::1]:2525", "http://[::1]:2525 "),
            ("smtp://[::1]", "http://[::1]:25 "),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(want), "{text}");
        }
        for text in ["smtp://", "http://x", "smtp://u:p@", "smtp://host:port", "smtp://a b", "smtp://u:%zz@host"] {
            let error = parse(text).unwrap_err();
            assert!(!error.contains("%zz"), "{error}");
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(bare("a@b.example"), Ok("a@b.example"));
        assert_eq!(bare("Bug Feed <a@b.example>"), Ok("a@b.example"));
        for bad in ["", "a", "@b", "a@", "a@b\r\nDATA", "a@b> SIZE=1 <c@d e", "a b@c", "ä@b"] {
            assert!(bare(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_message() {
        let to = ["a@b.example".to_owned(), "c@d.example".to_owned()];
        let subject = "bugfeed: Störung\r\nBcc: x@y".to_owned();
        let text = ".\nzwei Zeilen, von denen die zweite länger ist, als eine Zeile in base64 sein darf";
        let mail = Mail { from: "f@g.example", to: &to, subject, text, at_us: 0 };
        let message = message(&mail, "g.example").unwrap();
        let (head, body) = message.split_once("\r\n\r\n").unwrap();
        let names: Vec<_> = head.split("\r\n").filter_map(|line| line.split_once(": ")).map(|(name, _)| name).collect();
        let want = ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"];
        assert_eq!(names[..8], want, "and no Bcc");
        assert!(head.contains("Date: Thu, 1 Jan 1970 00:00:00 "), "{head}");
        assert!(message.split("\r\n").all(|line| line.len() <= 78 && line != "."), "{message}");
        let decoded = STANDARD.decode(body.replace("\r\n", "")).unwrap();
        assert_eq!(String::from_utf8(decoded).unwrap(), format!("{}\r\n", text.replace('\n', "\r\n")));
    }
}
