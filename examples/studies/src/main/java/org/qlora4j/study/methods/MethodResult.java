// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study.methods;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.qlora4j.common.Json;

/**
 * What a method took and reached, as its process wrote it down.
 *
 * @param name of the method
 * @param rate learning rate
 * @param trainedParameters elements that were trained
 * @param savedBytes files of the adapter, or of the model for method full
 * @param peakBytes VmHWM of the process
 * @param parts counted memory by what it holds, in bytes
 * @param stepSeconds median time of an optimizer step
 * @param tokensPerSecond over all steps
 * @param othersCpus processors that other processes kept busy meanwhile; NaN where unknown
 * @param resumed whether the run was interrupted, so that times and peak are of its last process
 * @param curve held-out loss over the run, from step 0 on
 */
record MethodResult(
    String name,
    double rate,
    long trainedParameters,
    long savedBytes,
    long peakBytes,
    Map<String, Long> parts,
    double stepSeconds,
    double tokensPerSecond,
    double othersCpus,
    boolean resumed,
    List<Point> curve) {

  /**
   * An evaluation.
   *
   * @param step optimizer steps before it
   * @param seconds time in them
   * @param loss held-out loss in nats per token
   */
  record Point(int step, double seconds, double loss) {}

  MethodResult {
    curve = List.copyOf(curve);
  }

  /** Memory that was counted. */
  long countedBytes() {
    return parts.values().stream().mapToLong(Long::longValue).sum();
  }

  /** Held-out loss after a number of steps; NaN where it was not evaluated. */
  double loss(int step) {
    return curve.stream()
        .filter(p -> p.step() == step)
        .mapToDouble(Point::loss)
        .findFirst()
        .orElse(Double.NaN);
  }

  ObjectNode toJson() {
    ObjectNode json = Json.newObject().put("name", name).put("learning_rate", rate);
    json.put("trained_parameters", trainedParameters).put("saved_bytes", savedBytes);
    json.put("peak_bytes", peakBytes);
    ObjectNode counted = json.putObject("counted_bytes");
    parts.forEach(counted::put);
    json.put("step_seconds", stepSeconds).put("tokens_per_s", tokensPerSecond);
    json.put("others_cpus", othersCpus).put("resumed", resumed);
    ArrayNode points = json.putArray("curve");
    for (Point point : curve) {
      points
          .addObject()
          .put("step", point.step())
          .put("seconds", point.seconds())
          .put("loss", point.loss());
    }
    return json;
  }

  static MethodResult of(JsonNode json) {
    Map<String, Long> parts = new LinkedHashMap<>();
    json.path("counted_bytes")
        .properties()
        .forEach(e -> parts.put(e.getKey(), e.getValue().asLong()));
    List<Point> curve = new ArrayList<>();
    for (JsonNode point : json.path("curve")) {
      curve.add(
          new Point(
              point.path("step").asInt(),
              point.path("seconds").asDouble(),
              point.path("loss").asDouble()));
    }
    return new MethodResult(
        json.path("name").asText(),
        json.path("learning_rate").asDouble(),
        json.path("trained_parameters").asLong(),
        json.path("saved_bytes").asLong(),
        json.path("peak_bytes").asLong(),
        parts,
        json.path("step_seconds").asDouble(),
        json.path("tokens_per_s").asDouble(),
        json.path("others_cpus").asDouble(Double.NaN),
        json.path("resumed").asBoolean(),
        curve);
  }
}
