//! Chats: an Adaptive Card for a Teams Workflows webhook, blocks for a Slack incoming webhook. Everything that people have written is put where neither
//! reads markup.

use std::fmt;

use domain::announcing::{Link, Text};
use futures_util::future::BoxFuture;
use reqwest::{Client, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value as Json, json};

use super::{
    Delivered, Message, Target,
    http::{self, Post},
};

/// Which chat it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ChatKind {
    /// Slack.
    Slack,
    /// Microsoft Teams.
    Teams,
}

/// A webhook of a chat. Its URL is all that is needed to write there: a secret.
pub struct Chat {
    kind: ChatKind,
    client: Client,
    host: String,
    url: SecretString,
}

impl fmt::Debug for Chat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chat").field("kind", &self.kind).field("host", &self.host).finish_non_exhaustive()
    }
}

impl Chat {
    /// The chat at this URL.
    #[must_use]
    pub fn new(kind: ChatKind, client: Client, url: &Url) -> Self {
        let host = url.host_str().unwrap_or_default().to_owned();
        Self { kind, client, host, url: SecretString::from(url.as_str()) }
    }
}

impl Target for Chat {
    fn deliver<'a>(&'a self, message: &'a Message) -> BoxFuture<'a, Delivered> {
        Box::pin(async move {
            let Ok(url) = Url::parse(self.url.expose_secret()) else {
                return Delivered::dead("The URL of the chat cannot be read");
            };
            let body = match self.kind {
                ChatKind::Slack => slack(&message.text),
                ChatKind::Teams => teams(&message.text),
            };
            let headers = [("content-type", "application/json; charset=utf-8".to_owned())];
            http::post(&self.client, Post { url: &url, headers: &headers, body: body.to_string() }).await
        })
    }
}

/// At most so many characters.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// Text runs, which Teams does not read Markdown in.
fn runs(parts: &[(&str, bool)]) -> Json {
    let run = |(text, bold): &(&str, bool)| json!({ "type": "TextRun", "text": cut(text, 4000), "weight": if *bold { "Bolder" } else { "Default" } });
    json!({ "type": "RichTextBlock", "inlines": parts.iter().map(run).collect::<Vec<_>>() })
}

fn teams(text: &Text) -> Json {
    let title = json!({
        "type": "RichTextBlock",
        "inlines": [{ "type": "TextRun", "text": cut(&text.title, 200), "weight": "Bolder", "size": "Medium" }],
    });
    let mut body = vec![title, runs(&[(&text.message, false)])];
    body.extend(text.action.iter().map(|action| runs(&[("What to do: ", true), (action, false)])));
    body.extend(text.facts.iter().map(|(name, value)| {
        let mut line = runs(&[(&format!("{name}: "), true), (value, false)]);
        line["spacing"] = json!("None");
        line
    }));
    let actions =
        text.links.iter().map(|link| json!({ "type": "Action.OpenUrl", "title": link.label, "url": link.url }));
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": null,
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.4",
                "fallbackText": cut(&text.title, 200),
                "body": body,
                "actions": actions.collect::<Vec<_>>(),
            },
        }],
    })
}

fn slack(text: &Text) -> Json {
    let plain = |text: &str, most| json!({ "type": "plain_text", "text": cut(text, most), "emoji": false });
    let mut blocks = vec![
        json!({ "type": "header", "text": plain(&text.title, 150) }),
        json!({ "type": "section", "text": plain(&text.message, 3000) }),
    ];
    if let Some(action) = &text.action {
        blocks.push(json!({ "type": "section", "text": plain(&format!("What to do: {action}"), 3000) }));
    }
    let facts: Vec<Json> =
        text.facts.iter().take(10).map(|(name, value)| plain(&format!("{name}: {value}"), 2000)).collect();
    if !facts.is_empty() {
        blocks.push(json!({ "type": "section", "fields": facts }));
    }
    if !text.links.is_empty() {
        let links: Vec<String> = text.links.iter().map(slack_link).collect();
        blocks.push(json!({ "type": "context", "elements": [{ "type": "mrkdwn", "text": links.join("  ·  ") }] }));
    }
    // Shown in notifications, where Slack reads markup.
    json!({ "text": escaped(&cut(&text.title, 200)), "unfurl_links": false, "unfurl_media": false, "blocks": blocks })
}

fn slack_link(link: &Link) -> String {
    let url: String = link.url.chars().filter(|c| !c.is_control() && !c.is_whitespace()).collect();
    let url = url.replace('&', "&amp;").replace('<', "%3C").replace('>', "%3E").replace('|', "%7C");
    format!("<{url}|{}>", link.label)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Text {
        Text {
            title: "contoso: <!channel> approval needed".to_owned(),
            message: "[Read this](https://evil.example) <@U123>".to_owned(),
            action: Some("*Approve* it".to_owned()),
            facts: vec![("Ticket", "CHG0030022".to_owned())],
            links: vec![Link { label: "Ticket", url: "https://a.example/?x=1&y=2|<!here>".to_owned() }],
        }
    }

    #[test]
    fn nothing_that_people_wrote_is_markup_in_slack() {
        let slack = slack(&text());
        assert_eq!(slack["text"], "contoso: &lt;!channel&gt; approval needed");
        for block in &slack["blocks"].as_array().unwrap()[..4] {
            let told = block.get("text").or_else(|| block["fields"].get(0)).unwrap();
            assert_eq!(told["type"], "plain_text", "{block}");
        }
        assert_eq!(slack["blocks"][4]["elements"][0]["text"], "<https://a.example/?x=1&amp;y=2%7C%3C!here%3E|Ticket>");
    }

    #[test]
    fn nothing_that_people_wrote_is_markup_in_teams() {
        let card = &teams(&text())["attachments"][0]["content"];
        let kinds: Vec<&str> =
            card["body"].as_array().unwrap().iter().map(|block| block["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["RichTextBlock"; 4], "text blocks and fact sets read Markdown");
        assert_eq!(card["body"][2]["inlines"][1]["text"], "*Approve* it");
        assert_eq!(card["actions"][0]["type"], "Action.OpenUrl");
    }

    #[test]
    fn long_texts_are_cut_to_what_a_chat_takes() {
        let long = Text { title: "ä".repeat(400), message: "ö".repeat(9000), ..text() };
        let slack = slack(&long);
        assert_eq!(slack["blocks"][0]["text"]["text"].as_str().unwrap().chars().count(), 150);
        assert_eq!(slack["blocks"][1]["text"]["text"].as_str().unwrap().chars().count(), 3000);
    }
}
