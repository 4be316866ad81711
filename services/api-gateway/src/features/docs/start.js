"use strict";

// Whoever signs in through the page is signed in on the page: the token of a login goes into every later request.
const page = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#page",
  deepLinking: true,
  displayRequestDuration: true,
  filter: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
  responseInterceptor: (response) => {
    if (response.ok && new URL(response.url, location.href).pathname === "/auth/login") {
      page.preauthorizeApiKey("bearerAuth", JSON.parse(response.text).data.access_token);
    }
    return response;
  },
});
