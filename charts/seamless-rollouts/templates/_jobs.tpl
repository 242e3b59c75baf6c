{{/*
What status and backfill have in common. Each is called with a dict: `root`, the chart's context;
`component`, which is also the end of every name; `resources`; and `arguments`, a list.
*/}}

{{/* At most 49 characters: a CronJob's name may have 52, a Job's 63, of which a hash takes nine. */}}
{{- define "seamless-rollouts.jobName" -}}
{{- printf "%s-%s" (include "seamless-rollouts.fullname" .root | trunc 40 | trimSuffix "-") .component }}
{{- end }}

{{/* Not the selector's labels: the Service must not take these pods for its own. */}}
{{- define "seamless-rollouts.jobSelectorLabels" -}}
app.kubernetes.io/name: {{ include "seamless-rollouts.jobName" . }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
{{- end }}

{{- define "seamless-rollouts.jobLabels" -}}
{{ include "seamless-rollouts.jobSelectorLabels" . }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: seamless-rollouts
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* A pod's metadata and spec. */}}
{{- define "seamless-rollouts.jobPod" -}}
{{- $values := .root.Values }}
metadata:
  labels:
    {{- include "seamless-rollouts.jobSelectorLabels" . | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
    app.kubernetes.io/part-of: seamless-rollouts
    {{- with $values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  restartPolicy: Never
  serviceAccountName: {{ include "seamless-rollouts.jobName" . }}
  # The volume below is mounted in its stead: its token lasts an hour.
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with $values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.podSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .waits }}
  initContainers:
    # Before a first install has come up there is no webhook that would patch.
    - name: wait-for-webhook
      image: {{ include "seamless-rollouts.image" .root | quote }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args:
        - precheck
        - --timeout=10m
        - {{ printf "tcp://%s.%s.svc:443" (include "seamless-rollouts.fullname" .root) .root.Release.Namespace | quote }}
      {{- with .resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.securityContext }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
  {{- end }}
  containers:
    - name: {{ .component }}
      image: {{ include "seamless-rollouts.image" .root | quote }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args:
        {{- range .arguments }}
        - {{ . | quote }}
        {{- end }}
      env:
        - name: POD_NAMESPACE
          valueFrom:
            fieldRef:
              fieldPath: metadata.namespace
        {{- with $values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with .resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.securityContext }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - name: config
          mountPath: /etc/seamless-rollouts
          readOnly: true
        - name: api-access
          mountPath: /var/run/secrets/kubernetes.io/serviceaccount
          readOnly: true
  volumes:
    - name: config
      configMap:
        name: {{ include "seamless-rollouts.fullname" .root }}
    - name: api-access
      projected:
        defaultMode: 0440
        sources:
          - serviceAccountToken:
              path: token
              expirationSeconds: 3600
          - configMap:
              name: kube-root-ca.crt
              items:
                - key: ca.crt
                  path: ca.crt
          - downwardAPI:
              items:
                - path: namespace
                  fieldRef:
                    fieldPath: metadata.namespace
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* Its ServiceAccount, and the ClusterRoleBinding of the ClusterRole of the same name. */}}
{{- define "seamless-rollouts.jobAccount" -}}
{{- $name := include "seamless-rollouts.jobName" . }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $name }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- include "seamless-rollouts.jobLabels" . | nindent 4 }}
automountServiceAccountToken: false
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ $name }}
  labels:
    {{- include "seamless-rollouts.jobLabels" . | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ $name }}
subjects:
  - kind: ServiceAccount
    name: {{ $name }}
    namespace: {{ .root.Release.Namespace | quote }}
{{- end }}

{{/* Where the cluster denies by default: out, the API server and DNS, and `ports`, a list. */}}
{{- define "seamless-rollouts.jobNetworkPolicy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "seamless-rollouts.jobName" . }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- include "seamless-rollouts.jobLabels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "seamless-rollouts.jobSelectorLabels" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  egress:
    - ports:
        {{- range concat .root.Values.networkPolicy.apiServerPorts .ports | uniq }}
        - port: {{ int . }}
          protocol: TCP
        {{- end }}
    - ports:
        - port: 53
          protocol: UDP
        - port: 53
          protocol: TCP
    {{- with .root.Values.networkPolicy.extraEgress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
