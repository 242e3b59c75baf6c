{{/*
Which workloads the API server sends, in CEL. One rule for all that follows: only has(), in, &&, ||
and !, with no optional fields (a.?b). A Kubernetes 1.28 API server compiles new expressions for
1.27 as well, which does not know those. An expression that fails counts as "do not call" under
failurePolicy Ignore and refuses the request under Fail, hence a has() in front of every field that
may be absent.
*/}}

{{/* Whether a metadata object, an expression, says `inject: WORD` in a label or an annotation. */}}
{{- define "seamless-rollouts.says" -}}
{{- $key := "'seamless-rollouts.dev/inject'" -}}
(has({{ .metadata }}.labels) && {{ $key }} in {{ .metadata }}.labels && {{ .metadata }}.labels[{{ $key }}] == '{{ .word }}' ||
 has({{ .metadata }}.annotations) && {{ $key }} in {{ .metadata }}.annotations && {{ .metadata }}.annotations[{{ $key }}] == '{{ .word }}')
{{- end }}

{{- define "seamless-rollouts.workloadSays" -}}
{{- include "seamless-rollouts.says" (dict "metadata" "object.metadata" "word" .) }}
{{- end }}

{{- define "seamless-rollouts.templateSays" -}}
(has(object.spec) && has(object.spec.template) && has(object.spec.template.metadata) &&
 {{ include "seamless-rollouts.says" (dict "metadata" "object.spec.template.metadata" "word" .) | indent 1 | trim }})
{{- end }}

{{/*
Whether a record of what was injected lies on the workload or its pod template. A PUT drops it from
the new object: the old one still has it.
*/}}
{{- define "seamless-rollouts.recorded" -}}
{{- $key := "'seamless-rollouts.dev/injected'" -}}
[object, oldObject].exists(o, o != null && (
  has(o.metadata.annotations) && {{ $key }} in o.metadata.annotations ||
  has(o.spec) && has(o.spec.template) && has(o.spec.template.metadata) &&
  has(o.spec.template.metadata.annotations) && {{ $key }} in o.spec.template.metadata.annotations
))
{{- end }}

{{/*
For namespaces in scope: everything but what says `disabled`. The workload beats its template, and on
one object `disabled` beats `enabled`. What bears a record is sent all the same, so that it can leave.
*/}}
{{- define "seamless-rollouts.unlessDisabled" -}}
{{ include "seamless-rollouts.recorded" . }} || !(
  {{ include "seamless-rollouts.workloadSays" "disabled" | nindent 2 | trim }} ||
  !{{ include "seamless-rollouts.workloadSays" "enabled" | nindent 2 | trim }} &&
  {{ include "seamless-rollouts.templateSays" "disabled" | nindent 2 | trim }}
)
{{- end }}

{{/* For all other namespaces: only what says `enabled` itself, or bears a record. */}}
{{- define "seamless-rollouts.ifEnabled" -}}
{{ include "seamless-rollouts.recorded" . }} ||
!{{ include "seamless-rollouts.workloadSays" "disabled" }} && (
  {{ include "seamless-rollouts.workloadSays" "enabled" | nindent 2 | trim }} ||
  {{ include "seamless-rollouts.templateSays" "enabled" | nindent 2 | trim }} &&
  !{{ include "seamless-rollouts.templateSays" "disabled" | nindent 2 | trim }}
)
{{- end }}

{{/*
A pattern as a regular expression (RE2, whose time is in proportion to the text). In patterns stand
only letters, digits and `-._/*`.
*/}}
{{- define "seamless-rollouts.regex" -}}
{{- regexReplaceAll "\\*+" (replace "." "[.]" .) ".*" }}
{{- end }}

{{/* The patterns among excludedNamespaces as one regular expression; nothing where there are none. */}}
{{- define "seamless-rollouts.excludedNamespacePattern" -}}
{{- $patterns := list }}
{{- range .Values.excludedNamespaces }}
{{- if contains "*" . }}
{{- $patterns = append $patterns (include "seamless-rollouts.regex" .) }}
{{- end }}
{{- end }}
{{- with $patterns }}^({{ join "|" . }})${{ end }}
{{- end }}

{{/* An expression that a text, an expression as well, is taken by a pattern. */}}
{{- define "seamless-rollouts.matches" -}}
{{- if contains "*" .pattern -}}
{{ .text }}.matches('^{{ include "seamless-rollouts.regex" .pattern }}$')
{{- else -}}
{{ .text }} == '{{ .pattern }}'
{{- end }}
{{- end }}

{{/* An expression that an owner reference `o` is of a GROUP/KIND; the core group's name is empty. */}}
{{- define "seamless-rollouts.owns" -}}
{{- $group := regexReplaceAll "/.*" . "" }}
{{- $kind := regexReplaceAll "^[^/]*/" . "" }}
{{- $version := printf "%s/[^/]*" (include "seamless-rollouts.regex" $group | replace ".*" "[^/]*") }}
{{- if eq $group "" }}
{{- $version = "[^/]*" }}
{{- else if regexMatch "^\\*+$" $group }}
{{- $version = ".*" }}
{{- end -}}
has(o.apiVersion) && o.apiVersion.matches('^{{ $version }}$') && has(o.kind) && {{ include "seamless-rollouts.matches" (dict "text" "o.kind" "pattern" $kind) }}
{{- end }}

{{/*
Whether an item of `exclude` is a single label without a pattern: then an objectSelector says it, at
no cost. Gives the label's key.
*/}}
{{- define "seamless-rollouts.excludedLabel" -}}
{{- $labels := default dict (get . "labels") }}
{{- if and (eq (len (keys . )) 1) (eq (len (keys $labels)) 1) }}
{{- range $key, $value := $labels }}
{{- if not (or (contains "*" $key) (contains "*" (toString $value))) }}{{ $key }}{{ end }}
{{- end }}
{{- end }}
{{- end }}

{{/* One item of `exclude`, in CEL. */}}
{{- define "seamless-rollouts.excludes" -}}
{{- $all := list }}
{{- with get . "namespace" }}
{{- $all = append $all (include "seamless-rollouts.matches" (dict "text" "request.namespace" "pattern" .)) }}
{{- end }}
{{- with get . "kind" }}
{{- $all = append $all (include "seamless-rollouts.matches" (dict "text" "request.kind.kind" "pattern" .)) }}
{{- end }}
{{- with get . "name" }}
{{- $name := "(has(object.metadata.name) && object.metadata.name != '' ? object.metadata.name : has(object.metadata.generateName) ? object.metadata.generateName : '')" }}
{{- $all = append $all (include "seamless-rollouts.matches" (dict "text" $name "pattern" .)) }}
{{- end }}
{{- range $key, $value := default dict (get . "labels") }}
{{- if contains "*" $key }}
{{- $name := include "seamless-rollouts.matches" (dict "text" "k" "pattern" $key) }}
{{- $value := include "seamless-rollouts.matches" (dict "text" "object.metadata.labels[k]" "pattern" (toString $value)) }}
{{- $all = append $all (printf "has(object.metadata.labels) && object.metadata.labels.exists(k, %s && %s)" $name $value) }}
{{- else }}
{{- $text := printf "object.metadata.labels['%s']" $key }}
{{- $value := include "seamless-rollouts.matches" (dict "text" $text "pattern" (toString $value)) }}
{{- $all = append $all (printf "has(object.metadata.labels) && '%s' in object.metadata.labels && %s" $key $value) }}
{{- end }}
{{- end }}
{{- with get . "owner" }}
{{- $all = append $all (printf "has(object.metadata.ownerReferences) && object.metadata.ownerReferences.exists(o, %s)" (include "seamless-rollouts.owns" .)) }}
{{- end }}
{{- join " && " $all }}
{{- end }}

{{/* The conditions that keep away what is excluded and that no selector can tell. */}}
{{- define "seamless-rollouts.exclusions" -}}
{{- with include "seamless-rollouts.excludedNamespacePattern" . }}
- name: namespace-not-excluded
  expression: "!request.namespace.matches('{{ . }}')"
{{- end }}
{{- $items := list }}
{{- range .Values.exclude }}
{{- if not (include "seamless-rollouts.excludedLabel" .) }}
{{- $items = append $items (printf "!(%s)" (include "seamless-rollouts.excludes" .)) }}
{{- end }}
{{- end }}
{{- with $items }}
- name: not-excluded
  expression: |-
    {{- join " &&\n" . | nindent 4 }}
{{- end }}
{{- end }}

{{/* The objectSelector that keeps away what a single label excludes. */}}
{{- define "seamless-rollouts.objectSelector" -}}
{{- $expressions := list }}
{{- range .Values.exclude }}
{{- $labels := get . "labels" }}
{{- with include "seamless-rollouts.excludedLabel" . }}
{{- $expressions = append $expressions (dict "key" . "operator" "NotIn" "values" (list (toString (get $labels .)))) }}
{{- end }}
{{- end }}
{{- with $expressions }}
objectSelector:
  matchExpressions:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end }}

{{/* The rules: only kinds that are switched on, never a subresource. */}}
{{- define "seamless-rollouts.rules" -}}
{{- $resources := list }}
{{- range $kind, $resource := dict "Deployment" "deployments" "StatefulSet" "statefulsets" "DaemonSet" "daemonsets" }}
{{- if has $kind $.Values.kinds }}
{{- $resources = append $resources $resource }}
{{- end }}
{{- end }}
{{- with $resources }}
- apiGroups: [apps]
  apiVersions: [v1]
  resources: {{ sortAlpha . | toJson }}
  operations: [CREATE, UPDATE]
  scope: Namespaced
{{- end }}
{{- if has "Rollout" .Values.kinds }}
- apiGroups: [argoproj.io]
  apiVersions: [v1alpha1]
  resources: [rollouts]
  operations: [CREATE, UPDATE]
  scope: Namespaced
{{- end }}
{{- end }}

{{/* What all entries have in common. */}}
{{- define "seamless-rollouts.entry" -}}
admissionReviewVersions: [v1]
clientConfig:
  # In mode self-managed there is no caBundle here: the pods own that field, and whoever else
  # rendered it would take it from them at every upgrade.
  service:
    name: {{ include "seamless-rollouts.fullname" . }}
    namespace: {{ .Release.Namespace | quote }}
    path: /mutate
    port: 443
  {{- with .Values.certificates.provided.caBundle }}
  caBundle: {{ contains "BEGIN CERTIFICATE" . | ternary (b64enc .) (nospace .) }}
  {{- end }}
failurePolicy: {{ .Values.webhook.failurePolicy }}
matchPolicy: Equivalent
reinvocationPolicy: IfNeeded
sideEffects: {{ .Values.events.enabled | ternary "NoneOnDryRun" "None" }}
timeoutSeconds: {{ .Values.webhook.timeoutSeconds }}
{{- end }}

{{/* What every workload must fulfil. */}}
{{- define "seamless-rollouts.conditions" -}}
{{- with include "seamless-rollouts.exclusions" . | trim }}
{{ . }}
{{- end }}
- name: not-being-deleted
  expression: "!has(object.metadata.deletionTimestamp)"
{{- if has "Rollout" .Values.kinds }}
# A Rollout with a workloadRef has no pod template of its own: its Deployment is sent. One that has
# a record is sent all the same, so that what was injected can leave.
- name: own-template
  expression: |-
    !has(object.spec) || !has(object.spec.workloadRef) || object.spec.workloadRef == null || object.spec.workloadRef == {} ||
    {{- include "seamless-rollouts.recorded" . | nindent 4 }}
{{- end }}
{{- end }}
