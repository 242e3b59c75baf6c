{{/*
What tells whether the cluster can carry the native sleep: the kubelets' versions, and the schema of
one CRD. Whoever decides needs it: with less, `seamless status` would not see what the webhook sees.
*/}}
{{- define "seamless-rollouts.capabilityRules" -}}
{{- if .Values.webhook.checkNodes }}
- apiGroups: [""]
  resources: [nodes]
  verbs: [list]
{{- end }}
{{- if has "Rollout" .Values.kinds }}
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  resourceNames: [rollouts.argoproj.io]
  verbs: [get]
{{- end }}
{{- end }}
