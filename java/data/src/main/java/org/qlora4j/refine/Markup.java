// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.refine;

import java.util.Set;
import java.util.regex.Pattern;
import org.jsoup.Jsoup;
import org.jsoup.nodes.Document;
import org.jsoup.nodes.Element;
import org.jsoup.nodes.Node;
import org.jsoup.nodes.TextNode;
import org.jsoup.select.NodeVisitor;

/** Plain text of HTML, and of the little Markdown that people write in posts. */
final class Markup {
  /** Names of elements and entities that posts contain; "가격 < 만원 > 기대" is no markup. */
  private static final Pattern HTML =
      Pattern.compile(
          "<!--|</?(?:p|div|br|span|a|img|b|strong|i|em|u|s|ul|ol|li|table|tbody|tr|td|th|h[1-6]|font|script|style|iframe|blockquote|figure|figcaption|hr|section|article|center|body|html|head|meta|link|video|button)(?:\\s[^<>]*)?/?>|&(?:nbsp|amp|lt|gt|quot|apos|hellip|middot|#[0-9]{1,7}|#x[0-9a-fA-F]{1,6});",
          Pattern.CASE_INSENSITIVE);

  private static final Set<String> BLOCKS =
      Set.of(
          "p",
          "div",
          "br",
          "li",
          "ul",
          "ol",
          "tr",
          "table",
          "h1",
          "h2",
          "h3",
          "h4",
          "h5",
          "h6",
          "hr",
          "blockquote",
          "figure",
          "section",
          "article",
          "header",
          "footer",
          "center",
          "dt",
          "dd",
          "pre");

  private static final Pattern IMAGE =
      Pattern.compile("!\\[[^\\]\\n]{0,500}\\]\\([^)\\n]{0,2000}\\)");
  private static final Pattern LINK =
      Pattern.compile("\\[([^\\]\\n]{1,500})\\]\\([^)\\n]{0,2000}\\)");
  private static final Pattern BOLD = Pattern.compile("(\\*\\*|__)([^*_\\n]{1,1000})\\1");
  private static final Pattern HEADING = Pattern.compile("(?m)^#{1,6}\\s+");

  private Markup() {}

  /** Whether a text holds HTML. */
  static boolean isHtml(String text) {
    return (text.indexOf('<') >= 0 || text.indexOf('&') >= 0) && HTML.matcher(text).find();
  }

  /** The text a reader sees, with a line end at every block and break. */
  static String textOf(String html) {
    Document document = Jsoup.parseBodyFragment(html);
    document.select("script,style,noscript,iframe,template,svg,button,figcaption").remove();
    StringBuilder text = new StringBuilder(html.length());
    document
        .body()
        .traverse(
            new NodeVisitor() {
              @Override
              public void head(Node node, int depth) {
                if (node instanceof TextNode piece) {
                  text.append(piece.getWholeText().replaceAll("\\s+", " "));
                } else {
                  lineEnd(node);
                }
              }

              @Override
              public void tail(Node node, int depth) {
                lineEnd(node);
              }

              private void lineEnd(Node node) {
                if (node instanceof Element element && BLOCKS.contains(element.normalName())) {
                  text.append('\n');
                }
              }
            });
    return text.toString();
  }

  /** The text without Markdown's images, links, bold and headings. */
  static String withoutMarkdown(String text) {
    if (text.indexOf('[') < 0
        && text.indexOf('*') < 0
        && text.indexOf('_') < 0
        && text.indexOf('#') < 0) {
      return text;
    }
    String result = IMAGE.matcher(text).replaceAll(" ");
    result = LINK.matcher(result).replaceAll("$1");
    result = BOLD.matcher(result).replaceAll("$2");
    return HEADING.matcher(result).replaceAll("");
  }
}
