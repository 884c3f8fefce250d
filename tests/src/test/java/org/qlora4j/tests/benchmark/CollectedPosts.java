// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.benchmark;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedWriter;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.SplittableRandom;
import org.qlora4j.common.Json;
import org.qlora4j.common.Progress;
import org.qlora4j.sentiment.LabelledReviews;

/**
 * Writes synthetic collected posts for measuring {@code data refine}: each of two to eight NSMC
 * reviews, two thirds of them of positive ones, one in ten a copy of an earlier post, one in twenty
 * a copy with a few words changed, with HTML, links, disclosures, phone numbers and emoji as often
 * as blogs have them.
 *
 * <pre>
 * java -cp ... org.qlora4j.tests.benchmark.CollectedPosts ratings_train.txt.xz posts.jsonl 1000000
 * </pre>
 */
final class CollectedPosts {
  private static final int REMEMBERED = 50_000;

  private CollectedPosts() {}

  /** Reviews, output, number of posts. */
  public static void main(String[] args) throws IOException {
    List<LabelledReviews.Review> reviews =
        LabelledReviews.read(Path.of(args[0]), null, "document", "label", Progress.none())
            .reviews();
    List<String> positive = texts(reviews, true);
    List<String> negative = texts(reviews, false);
    long count = Long.parseLong(args[2]);
    SplittableRandom random = new SplittableRandom(1);
    String[] earlier = new String[REMEMBERED];
    try (BufferedWriter out = Files.newBufferedWriter(Path.of(args[1]))) {
      for (long i = 0; i < count; i++) {
        int kind = random.nextInt(20);
        String copied = earlier[random.nextInt(REMEMBERED)];
        String text;
        if (kind < 2 && copied != null) {
          text = copied;
        } else if (kind < 3 && copied != null) {
          text = changed(copied, random);
        } else {
          text = post(random.nextInt(3) < 2 ? positive : negative, random);
        }
        earlier[random.nextInt(REMEMBERED)] = text;
        ObjectNode row = Json.newObject();
        row.put("id", i);
        row.put("title", "글 " + i);
        row.put("text", decorated(text, random));
        out.write(Json.compact(row));
        out.write('\n');
      }
    }
  }

  private static List<String> texts(List<LabelledReviews.Review> reviews, boolean positive) {
    return reviews.stream()
        .filter(review -> review.positive() == positive)
        .map(LabelledReviews.Review::text)
        .toList();
  }

  private static String post(List<String> reviews, SplittableRandom random) {
    StringBuilder text = new StringBuilder();
    for (int sentences = 2 + random.nextInt(7); sentences > 0; sentences--) {
      text.append(text.isEmpty() ? "" : " ").append(reviews.get(random.nextInt(reviews.size())));
      if (!text.toString().endsWith(".")) {
        text.append('.');
      }
    }
    return text.toString();
  }

  private static String changed(String text, SplittableRandom random) {
    String[] words = text.split(" ", -1);
    for (int i = 0; i < words.length; i++) {
      words[i] = random.nextInt(30) == 0 ? "다른" : words[i];
    }
    return String.join(" ", words);
  }

  private static String decorated(String text, SplittableRandom random) {
    return switch (random.nextInt(20)) {
      case 0, 1, 2 -> "<p>" + text.replace(". ", ".</p><p>") + "</p><img src=\"a.jpg\">&nbsp;";
      case 3 -> text + " https://blog.example.com/post/" + random.nextInt(100_000);
      case 4 -> text + " 업체로부터 제품을 제공받아 작성한 글입니다.";
      case 5 -> text + " 문의는 010-" + (1000 + random.nextInt(9000)) + "-5678로 주세요.";
      case 6 -> text + " 😍😍😍 #일상 #주말 #소통";
      default -> text;
    };
  }
}
