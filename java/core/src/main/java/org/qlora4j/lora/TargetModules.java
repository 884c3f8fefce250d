// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.lora;

import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.function.Function;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Text;

/**
 * Which linear layers get an adapter, by PEFT's rules ({@code target_modules} and the options that
 * narrow it).
 *
 * @param names a module path, or the end of one after a dot; empty, where there is no expression
 *     either: every linear layer but the output head ("all-linear")
 * @param expression a regular expression of whole module paths instead of names, or null
 * @param exclude names of layers to leave out
 * @param excludeExpression an expression of layers to leave out, or null
 * @param layers numbers of the decoder layers to stay in, from 0; empty: all
 * @param layersPattern names of the module list that these numbers count in; empty: the first
 *     number in a path. The names are regular expressions
 */
public record TargetModules(
    List<String> names,
    @Nullable String expression,
    List<String> exclude,
    @Nullable String excludeExpression,
    List<Integer> layers,
    List<String> layersPattern) {

  /** The word for all of them. */
  public static final String ALL_LINEAR = "all-linear";

  private static final Pattern FIRST_NUMBER = Pattern.compile(".*?\\.[^.]*\\.(\\d+)\\.");

  /**
   * Checks the expressions.
   *
   * @throws InputException for one that is none, or layers next to an expression
   */
  public TargetModules {
    names = List.copyOf(names);
    exclude = List.copyOf(exclude);
    layers = List.copyOf(layers);
    layersPattern = List.copyOf(layersPattern);
    if (expression != null) {
      ModulePattern.check("target_modules", expression);
      if (!names.isEmpty()) {
        throw new IllegalArgumentException("expected names or an expression, found both");
      }
      if (!layers.isEmpty()) {
        throw new InputException(
            "layers_to_transform: expected none next to a regular expression in target_modules,"
                + " which can name the layers itself");
      }
    }
    if (excludeExpression != null) {
      ModulePattern.check("exclude_modules", excludeExpression);
    }
    if (!layersPattern.isEmpty() && layers.isEmpty()) {
      throw new InputException("layers_pattern: expected layers_to_transform beside it");
    }
    layersPattern.forEach(pattern -> ModulePattern.check("layers_pattern", pattern));
  }

  /** Names alone; with none, or with "all-linear" alone, every linear layer. */
  public static TargetModules of(List<String> names) {
    return new TargetModules(
        names.equals(List.of(ALL_LINEAR)) ? List.of() : names,
        null,
        List.of(),
        null,
        List.of(),
        List.of());
  }

  /** Whether every linear layer is meant, as far as nothing narrows it. */
  public boolean allLinear() {
    return names.isEmpty() && expression == null;
  }

  /** The same, with names that say what was meant by "all-linear". */
  TargetModules withNames(List<String> all) {
    return new TargetModules(all, null, exclude, excludeExpression, layers, layersPattern);
  }

  /** Whether the linear layer with this module path gets an adapter. */
  public boolean matches(String path) {
    if (excludeExpression != null && ModulePattern.whole(excludeExpression).matches(path)) {
      return false;
    }
    if (named(exclude, path)) {
      return false;
    }
    if (expression != null) {
      return ModulePattern.whole(expression).matches(path);
    }
    return (names.isEmpty() || named(names, path)) && inLayers(path);
  }

  private static boolean named(List<String> names, String path) {
    return names.stream().anyMatch(name -> path.equals(name) || path.endsWith("." + name));
  }

  private boolean inLayers(String path) {
    if (layers.isEmpty()) {
      return true;
    }
    if (layersPattern.isEmpty()) {
      Matcher matcher = FIRST_NUMBER.matcher(path);
      return matcher.lookingAt() && layers.contains(number(matcher.group(1)));
    }
    for (String pattern : layersPattern) {
      String digits = ModulePattern.layer(pattern).layerIn(path);
      if (digits != null) {
        return layers.contains(number(digits));
      }
    }
    return false;
  }

  private static int number(String digits) {
    return digits.length() > 9 ? -1 : Integer.parseInt(digits);
  }

  /**
   * The chosen ones of a model's linear layers, in the model's order.
   *
   * @param path of a module
   * @throws InputException when a name, or the whole choice, names none
   */
  public <T> List<T> select(List<T> modules, Function<T, String> path) {
    List<String> paths = modules.stream().map(path).toList();
    for (String name : names) {
      if (paths.stream().noneMatch(p -> named(List.of(name), p))) {
        Set<String> known = new LinkedHashSet<>(shortNames(paths));
        String near = Text.nearest(name, known);
        throw new InputException(
            "lora_target_modules: expected all-linear or names among "
                + String.join(", ", known)
                + ", found "
                + Text.quote(name)
                + (near == null ? "" : "; did you mean " + near + "?"));
      }
    }
    List<T> chosen = modules.stream().filter(m -> matches(path.apply(m))).toList();
    if (chosen.isEmpty()) {
      throw new InputException(
          "lora_target_modules: expected to choose a linear layer of the model, found none"
              + (expression == null ? "" : " that " + Text.quote(expression) + " matches whole")
              + (exclude.isEmpty() && excludeExpression == null
                  ? ""
                  : " once exclude_modules are left out")
              + (layers.isEmpty() ? "" : " in the layers " + layers)
              + "; paths look like "
              + paths.get(0));
    }
    return chosen;
  }

  /** The last components of paths, each once, in their order. */
  static List<String> shortNames(List<String> paths) {
    return paths.stream().map(p -> p.substring(p.lastIndexOf('.') + 1)).distinct().toList();
  }
}
