// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.lora;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.qlora4j.model.DecoderModel;

/**
 * Several adapters of one model, of which one at a time, or none, takes part in what it computes.
 * The base is in memory once. Close it before the model; not thread-safe, like the model.
 */
public final class ModelAdapters implements AutoCloseable {
  private final DecoderModel model;
  private final Map<String, LoraAdapter> adapters = new LinkedHashMap<>();
  private @Nullable String active;

  /** None yet; the model computes as its base. */
  public ModelAdapters(DecoderModel model) {
    this.model = model;
  }

  /**
   * Reads an adapter in PEFT's format under a name; it is not active yet.
   *
   * @throws IllegalArgumentException when the name is taken
   * @throws org.qlora4j.common.InputException when it does not fit the model
   */
  public LoraAdapter load(String name, Path directory) {
    return add(name, LoraAdapter.read(model.pack(), directory, model, null));
  }

  /** Takes over an adapter of this model under a name. */
  public LoraAdapter add(String name, LoraAdapter adapter) {
    if (adapters.putIfAbsent(name, adapter) != null) {
      adapter.close();
      throw new IllegalArgumentException("there is an adapter " + name + " already");
    }
    return adapter;
  }

  /** The names, in the order they came. */
  public List<String> names() {
    return List.copyOf(adapters.keySet());
  }

  /** The adapter that takes part, or null. */
  public @Nullable String active() {
    return active;
  }

  /**
   * Lets one adapter take part, and no other.
   *
   * @param name of it, or null for the base alone
   * @throws IllegalArgumentException when there is none of that name
   */
  public void activate(@Nullable String name) {
    LoraAdapter next = name == null ? null : find(name);
    if (active != null) {
      find(active).detach();
      active = null;
    }
    if (next != null) {
      next.attach(model.linears());
      active = name;
    }
  }

  /** Takes an adapter off, where it is active, and frees its memory. */
  public void remove(String name) {
    LoraAdapter adapter = find(name);
    if (name.equals(active)) {
      activate(null);
    }
    adapters.remove(name);
    adapter.close();
  }

  private LoraAdapter find(String name) {
    LoraAdapter adapter = adapters.get(name);
    if (adapter == null) {
      throw new IllegalArgumentException(
          "expected an adapter among " + names() + ", found " + name);
    }
    return adapter;
  }

  @Override
  public void close() {
    for (String name : new ArrayList<>(adapters.keySet())) {
      remove(name);
    }
  }
}
